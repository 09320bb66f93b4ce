"""`kubectl metainf`: finds the subcommand, connects, and turns what goes wrong into one line and an exit code.

Separate from the subcommands (`plugin`), which get a connected cluster and print; and each of them is loaded only when
it is asked for. kubectl finds this by the name of its entry point, `kubectl-metainf`, on the PATH.
"""

import argparse
import asyncio
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from metainf.errors import InvalidWorkloadError, MetaInfError
from metainf_operator.api_errors import ClusterError, ConflictError, ForbiddenError, NotFoundError, UnreachableError
from metainf_operator.plugin.arguments import parser

__all__ = ["main"]

_DONE, _FAULT, _BAD_INPUT, _INTERRUPTED = 0, 1, 2, 130
_REQUEST_TIMEOUT_S = 15.0

_READS = {
    "plan": "plan lists nodes, pods, deployments, pools, workloads and decisions of the whole cluster to see what is "
    "free and what runs: ask for a role that may, or give the pools in files with --pools, and all but the pools is "
    "read in one namespace alone",
    "pools": "pools lists nodes, pods, pools, workloads and decisions of the whole cluster: ask for a role that may",
    "pin": "pin reads the workload and its decisions, and with --apply patches the workload: ask for the role edit",
    "unpin": "unpin reads the workload, and with --apply patches it: ask for the role edit of the namespace",
}
_READS_NAMESPACE = "this reads the workload and its decisions: ask for the role view of the namespace"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done or chosen, 1 a fault, 2 bad input, 3 refused."""
    args = parser().parse_args(argv)
    try:
        return asyncio.run(_run(args))
    except InvalidWorkloadError as error:
        return _failed(str(error), _BAD_INPUT)
    except BrokenPipeError:
        # The reader has gone, as `head` does: nothing is left to say, and the interpreter must not try on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _DONE
    except ClusterError as error:
        return _failed(f"{error}{_advice(error, args.command)}", _FAULT)
    except (MetaInfError, OSError) as error:
        return _failed(str(error), _FAULT)
    except KeyboardInterrupt:
        return _INTERRUPTED


async def _run(args: argparse.Namespace) -> int:
    from metainf_operator.cluster import Cluster, Connection

    connection = Connection(
        kubeconfig=_kubeconfig(args.kubeconfig),
        context=args.context,
        request_timeout_s=_REQUEST_TIMEOUT_S,
        user_agent="kubectl-metainf",
    )
    cluster = await Cluster.connect(connection)
    try:
        args.namespace_given = args.namespace is not None
        args.namespace = args.namespace or cluster.own_namespace
        command = importlib.import_module(f"metainf_operator.plugin.{args.command}")
        return int(await command.run(args, cluster))
    finally:
        await cluster.close()


def _kubeconfig(given: str | None) -> Path | None:
    """The file that is named; a name that leads nowhere is told here, since the client library does so in riddles."""
    if given is not None:
        path = Path(given).expanduser()
        if not path.is_file():
            raise InvalidWorkloadError(f"--kubeconfig: there is no file {given}")
        return path
    named = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ
    if not in_pod and not any(Path(each).is_file() for each in named.split(os.pathsep)):
        raise InvalidWorkloadError(f"there is no kubeconfig {named}: set KUBECONFIG or give --kubeconfig")
    return None


def _advice(error: ClusterError, command: str) -> str:
    """What to do about it, in the same line."""
    if isinstance(error, ForbiddenError) and error.code == 403:
        return f"; {_READS.get(command, _READS_NAMESPACE)}"
    if isinstance(error, ForbiddenError) and error.code == 401:
        return "; log in to the cluster again, or name another --context"
    if isinstance(error, UnreachableError) and error.code is None:
        return "; check --kubeconfig and --context, and that the cluster is up"
    if isinstance(error, NotFoundError):
        return "; are MetaInf's CRDs installed on this cluster? kubectl get crds | grep metainf.dev"
    if isinstance(error, ConflictError):
        return "; somebody changed it meanwhile: try again"
    return ""


def _failed(message: str, code: int) -> int:
    line = " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in message).split())
    print(f"metainf: {line}", file=sys.stderr)
    return code
