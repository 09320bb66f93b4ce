"""How a pass over a workload ends: what a refusal of the API server means, when to look again, which records to keep.

Separate from `controller`, which makes the pass. Pure.
"""

from metainf.manifests import InferenceWorkload
from metainf_operator.api_errors import InvalidObjectError
from metainf_operator.conditions import Fault
from metainf_operator.reporter import Seen
from metainf_operator.states import DecisionState
from metainf_operator.understanding import TroubleError

__all__ = ["DEFINITIONS_LOOK_S", "TURN_LOOK_S", "kept_names", "next_look_s", "refused_by_server"]

DEFINITIONS_LOOK_S = 30.0  # what the API server refuses changes with its definitions, which nobody watches
TURN_LOOK_S = 10.0  # other workloads' switches end, and no event of this one tells
_ACCRUED_LOOK_S = 60.0


def refused_by_server(error: InvalidObjectError) -> TroubleError:
    """A child or a record that the API server does not take: a part of the user's template, or an old CRD."""
    text = str(error)
    if "metainf.dev" in text or "InferenceDecision" in text:
        return TroubleError(Fault.CRD_TOO_OLD, f"{text}: apply the CRDs of this version", DEFINITIONS_LOOK_S)
    return TroubleError(Fault.INVALID_SPEC, text, DEFINITIONS_LOOK_S)


def next_look_s(seen: Seen, otherwise_s: float | None = None) -> float | None:
    """Seconds until the next look, where no event may bring it: a step of a switch, or what a batch costs.

    `otherwise_s` is when there is another reason to look; None where there is none.
    """
    waits = [] if otherwise_s is None else [otherwise_s]
    if seen.rolled.again_in is not None:
        waits.append(seen.rolled.again_in.total_seconds())
    if seen.accrued is not None and seen.rolled.stage is not None:
        waits.append(_ACCRUED_LOOK_S)
    return min(waits, default=None)


def kept_names(workload: InferenceWorkload, active: DecisionState | None) -> frozenset[str]:
    """Names of the records that are not to be dropped: of what is in force, and of what is pinned."""
    names = {active.head.name} if active is not None else set()
    pin = workload.policy.pinned
    if pin is not None and pin.decision is not None:
        names.add(pin.decision)
    return frozenset(names)
