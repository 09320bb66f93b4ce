"""What a step that starts pods has to wait for, beside its own replicas: a turn to roll, and who reserved before.

A template that changes restarts every pod, as a switch does, and what changes one may change all: a pool's selector,
or a version of this operator that writes templates otherwise. So rolls and switches share one limit, and whoever rolls
holds a turn until its new pods serve or their time is over. What interrupts nobody waits for no turn: a change of size,
a start, a roll of what does not answer; nor does what puts a user's edit right.

Separate from `rollout`, which knows one workload alone, and from `roller`, which acts. Pure.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from metainf.manifests import InferenceWorkload
from metainf_operator.children import ANNOTATION_DIGEST, Serving, deployment
from metainf_operator.ledger import Hold
from metainf_operator.projections import ChildState
from metainf_operator.rollout import Stage, Step

__all__ = ["behind", "more_replicas", "out_of_turn", "rolls", "starts_pods"]

_PLACE_LOOK = timedelta(seconds=5)  # a pod has its node in seconds, and no event of this workload tells
_TURN_LOOK = timedelta(seconds=10)


def more_replicas(standing: ChildState | None, wished: int) -> int:
    """How many more replicas than it has the Deployment is to have; all of them where it does not stand yet."""
    return wished - (0 if standing is None or standing.deployment is None else standing.deployment.replicas)


def starts_pods(step: Step, deployments: Sequence[ChildState]) -> bool:
    """Whether the step may start pods, or takes away what answers to make room for them."""
    return step.apply_target or (step.stage is Stage.RECREATING and _answers(deployments))


def behind(step: Step, first: Hold, deployments: Sequence[ChildState]) -> Step:
    """The step short of what starts pods: those of another have to have their nodes first."""
    recreates = step.stage is Stage.RECREATING
    return replace(
        step,
        stage=Stage.WAITING_TO_SWITCH if _answers(deployments) else step.stage,
        message=f"{step.message}; before that, pods of {first.workload} take the nodes that they select",
        apply_target=False,
        delete=() if recreates else step.delete,
        again_in=_sooner(step, _PLACE_LOOK),
    )


def rolls(workload: InferenceWorkload, serving: Serving, standing: ChildState, replicas: int) -> bool:
    """Whether the Deployment as it shall be replaces pods that answer.

    It does where it is another than the standing one would be at this size, by its record and with its strategy.
    """
    running = standing.deployment
    if running is None or running.available == 0:
        return False
    same = replace(serving, decision=standing.decision or "")
    wishes = (deployment(workload, same, n, surge=bool(standing.surge)) for n in {running.replicas, replicas})
    return all(wish["metadata"]["annotations"][ANNOTATION_DIGEST] != standing.digest for wish in wishes)


def out_of_turn(step: Step) -> Step:
    """The step short of what replaces pods: as many workloads switch or roll as may at a time."""
    return replace(
        step,
        stage=Stage.WAITING_TO_SWITCH,
        message=f"{step.message}; its pods are replaced once fewer workloads switch or roll",
        apply_target=False,
        again_in=_sooner(step, _TURN_LOOK),
    )


def _sooner(step: Step, wait: timedelta) -> timedelta:
    return wait if step.again_in is None else min(wait, step.again_in)


def _answers(deployments: Sequence[ChildState]) -> bool:
    return any(child.deployment is not None and child.deployment.available > 0 for child in deployments)
