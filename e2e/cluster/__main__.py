"""The command line: `python -m e2e.cluster up|down|status|env|build|engine|watch`, from the root of the repository.

Separate, because it only reads arguments and prints; the stories call `lifecycle` themselves.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from .binaries import build
from .engine import ENGINE_VERSION, OVERLAY_VERSIONS, build_engine
from .kubectl import apply_crds
from .lifecycle import choose, default_state_dir, down, find, needed_artifacts, up, watch
from .model import Cluster, ClusterSetupError, Kind
from .processes import is_running, known_processes
from .progress import Progress


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster", description="A Kubernetes for stories and demo.")
    parser.add_argument("--state-dir", type=Path, default=None, help=f"default: {default_state_dir()}")
    commands = parser.add_subparsers(dest="command", required=True)
    kinds = [kind.value for kind in Kind if kind is not Kind.GIVEN]
    for name, what in (("up", "bring a cluster up, or find the one that runs"), ("build", "build the programs only")):
        command = commands.add_parser(name, help=what)
        command.add_argument("--kind", choices=kinds, help="default: a given kubeconfig, else kind, else built")
        if name == "up":
            command.add_argument("--real-node", action="store_true", help="add a node that runs pods; needs root")
            command.add_argument("--address", default="127.0.0.1", help="where a built API server listens")
            command.add_argument("--crds", type=Path, help="apply the definitions of this folder")
    installing = commands.add_parser("engine", help="install real vLLM for CPUs into the cache: several gigabytes")
    installing.add_argument("versions", nargs="*", default=[*OVERLAY_VERSIONS, ENGINE_VERSION], help="default: all")
    removing = commands.add_parser("down", help="end the cluster and remove its state")
    removing.add_argument("--keep-logs", type=Path, help="copy the logs here first")
    watching = commands.add_parser("watch", help="wait for a process to end, then do as down does")
    watching.add_argument("pid", type=int)
    commands.add_parser("status", help="say what runs; exit code 1 where nothing does")
    commands.add_parser("env", help='print what a shell needs: eval "$(python -m e2e.cluster env)"')
    return parser


def _describe(cluster: Cluster) -> str:
    processes = cluster.state_dir / "processes"
    running = [name for name in known_processes(processes) if is_running(processes, name)]
    return "\n".join(
        [
            f"kind        {cluster.kind}",
            f"server      {cluster.server}",
            f"kubeconfig  {cluster.kubeconfig}",
            f"programs    {cluster.bin_dir}",
            f"logs        {cluster.log_dir}",
            f"running     {', '.join(running) or 'nothing of ours'}",
        ]
    )


def _environment(cluster: Cluster) -> str:
    return (
        f"export KUBECONFIG={shlex.quote(str(cluster.kubeconfig))}\n"
        f'export PATH={shlex.quote(str(cluster.bin_dir))}:"$PATH"'
    )


def _run(options: argparse.Namespace) -> int:
    if options.command == "build":
        print(build(needed_artifacts(Kind(options.kind) if options.kind else choose()), Progress()))
        return 0
    if options.command == "engine":
        for version in options.versions:
            made = build_engine(version, Progress())
            print(" ".join([*(f"{name}={value}" for name, value in made.variables().items()), str(made.python)]))
        return 0
    if options.command == "down":
        down(options.state_dir, keep_logs=options.keep_logs)
        return 0
    if options.command == "watch":
        watch(options.state_dir or default_state_dir(), options.pid)
        return 0
    if options.command == "up":
        cluster: Cluster | None = up(
            options.state_dir,
            kind=Kind(options.kind) if options.kind else None,
            address=options.address,
            with_node=options.real_node,
        )
        if cluster is not None and options.crds is not None:
            for name in apply_crds(cluster, options.crds):
                print(f"established {name}", file=sys.stderr)
    else:
        cluster = find(options.state_dir)
    if cluster is None:
        print("no cluster runs here; start one with: python -m e2e.cluster up", file=sys.stderr)
        return 1
    print(_environment(cluster) if options.command == "env" else _describe(cluster))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a fault is one line on standard error and exit code 1."""
    try:
        return _run(_parser().parse_args(arguments))
    except ClusterSetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
