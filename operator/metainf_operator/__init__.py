"""The operator: reads the cluster, asks `metainf` which candidate to run, and makes it so."""
