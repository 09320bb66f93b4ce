"""What is seen of the pods of the decision in force: whether they all have their nodes, and whether any answers.

Separate from `choosing`, which asks the selection with it. Reads the caches and nothing else. That a decision holds
room says only that it was granted: here it is what the scheduler and kubelet made of that.
"""

from metainf.running import Running
from metainf_operator.states import DecisionState, WorkloadState
from metainf_operator.world import World

__all__ = ["what_runs"]


def what_runs(world: World, state: WorkloadState, active: DecisionState | None, *, asked: str) -> Running | None:
    """The candidate in force as it runs; None where no pod of it has a node of its pool.

    Pods of another Deployment of the workload are of another decision. They are told apart by what they serve, where
    Deployments are seen. Those that were made for something else than is `asked` now (`serving_inputs`), such as
    shorter requests, show nothing of the memory that this takes. Those that all answered once show it still: an engine
    that ended and loads again is no reason to leave.
    """
    if active is None or not active.holds:
        return None
    choice, kept = active.head.choice, active.head.reservation
    record = None if choice is None else world.pool_of(state.key, choice.pool)
    if choice is None or kept is None or record is None:
        return None
    children = world.children(state.key, world.deployments, state.uid)
    others = {child.serving for child in children if child.decision != active.head.name}
    served = any(
        child.deployment is not None and child.deployment.served
        for child in children
        if child.decision == active.head.name
    )
    pods = [use for use in world.pods_in(state.key, record) if not use.terminating and use.serving not in others]
    if not pods:
        return None
    return Running(
        choice,
        kept.request,
        placed=len(pods) >= choice.replicas,
        answers=active.serving_inputs == asked and (served or any(use.engine is not None for use in pods)),
        tolerations=tuple(dict.fromkeys(toleration for use in pods for toleration in use.tolerations)),
    )
