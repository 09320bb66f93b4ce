"""The operator: reads the cluster, asks `metainf` which candidate to run, and makes it so.

Products of matrices are small here, and decisions are made one after another: more threads gain nothing. On a node with
many cores OpenBLAS would start one for each of them whatever the pod's share is, and where other processes want the
cores too its threads wait for each other for most of a second instead of a millisecond. It reads its setting once, when
numpy is loaded: that is why this stands here.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
