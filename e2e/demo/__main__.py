"""`python -m e2e.demo`, which is `make demo`: sets the stage, plays, sums up, and takes everything down.

Separate from the tale: here is only what happens around it, whether it goes well, fails or is interrupted. Exit code 0
where all was seen as told, 1 where not, 130 where it was interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from e2e.cluster import Cluster, ClusterSetupError, apply, apply_crds, down, running_cluster, up, wait_ready
from e2e.cluster.binaries import cache_folder
from e2e.cluster.lifecycle import KUBECONFIG_VARIABLE, choose
from e2e.demo.fleet import FLEET, nodes
from e2e.demo.screen import Screen
from e2e.demo.stage import NAMESPACE, Stage, TaleError
from e2e.demo.tale import Seen, play
from e2e.kube import Kube, KubeError
from e2e.operator_process import OperatorProcess, install_account

_ROOT = Path(__file__).resolve().parents[2]
_LOG_LINES = 25
_PYTHON = os.path.relpath(sys.executable)  # as a person at the root of the repository types it
_STOP = f"{_PYTHON} -m e2e.cluster --state-dir {{}} down"


def _kept_folder() -> Path:
    return cache_folder() / "demo"


@contextlib.contextmanager
def _cluster(keep: bool, screen: Screen) -> Iterator[Cluster]:
    """A cluster of the demo's own, never one that the user has: it brings nodes, and an operator for all of it."""
    given = {key: value for key, value in os.environ.items() if key != KUBECONFIG_VARIABLE}
    if len(given) < len(os.environ):
        screen.say(f"{KUBECONFIG_VARIABLE} is not used: the demo makes a cluster of its own", "dim")
    kind = choose(given)
    if not keep:
        with running_cluster(kind=kind) as cluster:
            try:
                yield cluster
            finally:
                screen.say("\ntaking everything down", "dim")
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave half of it
        return
    folder = _kept_folder()
    down(folder)  # of an earlier --keep
    try:
        yield up(folder, kind=kind)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        down(folder)
        raise


def _set_stage(cluster: Cluster, screen: Screen) -> Stage:
    apply_crds(cluster, _ROOT / "crds")
    manifests = nodes()
    apply(cluster, manifests)
    wait_ready(cluster, *(node["metadata"]["name"] for node in manifests))
    kube = Kube(cluster.kubeconfig, NAMESPACE)
    screen.step(f"{len(manifests)} nodes of {len(FLEET)} kinds are Ready; pods on them are simulated by KWOK")
    operator = OperatorProcess(cluster, install_account(cluster, kube))
    return Stage(cluster, kube, operator, screen)


def _told(stage: Stage) -> Seen:
    """Play with the operator at work; its last words where it goes wrong."""
    try:
        stage.operator.start_leading()
        stage.screen.step("the operator leads, a process of this machine with the rights that the chart gives it")
        return play(stage)
    except (TaleError, AssertionError, KubeError, ClusterSetupError) as error:
        raise TaleError(f"{error}\n\nlast lines of the operator's log:\n{stage.operator.tail(_LOG_LINES)}") from error
    finally:
        stage.kube.close()


def _sum_up(seen: Seen, screen: Screen) -> None:
    screen.say("\nWhat was seen", "bold")
    chosen = [each for each in seen.before if each.runs]
    total = sum(each.cost_per_hour for each in chosen)
    left = ", ".join(f"{each.name} ({each.reason})" for each in seen.before if not each.runs)
    old, new = seen.moved_from, seen.moved_to
    lines = (
        f"{len(chosen)} of {len(seen.before)} examples were chosen and served, for {total:.2f} USD/h; not {left}.",
        f"{old.name} went from {old.pool} ({old.cost}/h) to {new.pool} ({new.cost}/h) when that price fell.",
        f"{seen.accepted.name} was refused, then accepted with the budget that the refusal named: "
        f"{seen.accepted.replicas} x {seen.accepted.method} {seen.accepted.layout} on {seen.accepted.pool}, "
        f"{seen.accepted.cost}/h of {seen.budget} USD/h.",
        f"All of it took {screen.seconds:.0f} s.",
    )
    for line in lines:
        screen.bullet(line)


def _go_on(cluster: Cluster | None, screen: Screen) -> None:
    screen.say("\nTo go on", "bold")
    commands = {
        "kubectl get miw -o wide": "every workload: pool, cost, budget, decision",
        "kubectl describe miw chat": "its conditions and events",
        "kubectl metainf pools": "the pools, their room and their prices",
        "kubectl metainf explain chat": "what runs, and why not the others",
        "kubectl metainf diff chat": "what the switch changed",
        "kubectl metainf pin assistants --apply": "approve the proposal that waits",
    }
    if cluster is None:
        again = {f"{_PYTHON} -m e2e.demo --keep": "the same, and leaves the cluster running for these:"}
        screen.commands({**again, **commands})
        return
    folder = shlex.quote(str(cluster.state_dir))
    shell = f'eval "$({_PYTHON} -m e2e.cluster --state-dir {folder} env)"'
    screen.say(f"The cluster and the operator run on. In a shell with {os.path.dirname(_PYTHON)} on its PATH:")
    screen.say(f"  {shell}", "bold")
    screen.commands(commands)
    screen.say("To stop and remove all of it:")
    screen.say(f"  {_STOP.format(folder)}", "bold")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Play once."""
    parser = argparse.ArgumentParser(prog="python -m e2e.demo", description="MetaInf's main job, live.")
    parser.add_argument("--keep", action="store_true", help="leave the cluster and the operator running")
    keep: bool = parser.parse_args().keep
    signal.signal(signal.SIGTERM, _interrupt)
    screen = Screen()
    screen.say("MetaInf: from an InferenceWorkload to vLLM on the right nodes, inside the budget", "bold")
    try:
        with _cluster(keep, screen) as cluster:
            screen.restart()
            seen = _told(_set_stage(cluster, screen))
            _sum_up(seen, screen)
            _go_on(cluster if keep else None, screen)
    except KeyboardInterrupt:
        print("interrupted: everything is taken down", file=sys.stderr)
        return 130
    except (TaleError, ClusterSetupError, KubeError, AssertionError) as error:
        print(f"\nthe demo did not go as told: {error}", file=sys.stderr)
        hint = _STOP.format(_kept_folder()) if keep else f"{_PYTHON} -m e2e.demo --keep leaves the cluster for a look"
        print(f"\n{hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
