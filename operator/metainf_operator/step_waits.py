"""What a step that starts pods has to wait for, beside its own replicas: the pods of those who reserved before.

Separate from `rollout`, which knows one workload alone, and from `roller`, which acts. Pure.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from metainf_operator.ledger import Hold
from metainf_operator.projections import ChildState
from metainf_operator.rollout import Stage, Step

__all__ = ["behind", "more_replicas", "starts_pods"]

_LOOK = timedelta(seconds=5)  # a pod has its node in seconds, and no event of this workload tells


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
        again_in=_LOOK,
    )


def _answers(deployments: Sequence[ChildState]) -> bool:
    return any(child.deployment is not None and child.deployment.available > 0 for child in deployments)
