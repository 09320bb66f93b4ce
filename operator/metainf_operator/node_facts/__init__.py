"""`python -m metainf_operator.node_facts`: labels its own node with what the NVIDIA driver says of the GPUs.

For clusters without GPU feature discovery; a DaemonSet of the chart runs it (`nodeFacts.enabled`). A package inside
of the operator's, so that one image and one set of labels' keys serve both, and a small one: it runs on every node
with a GPU, and imports neither kopf nor a client library of Kubernetes.
"""
