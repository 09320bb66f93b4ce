"""Why a candidate is not chosen, and which limit binds when none is.

Separate because selection, decisions, conditions and the documentation name the same reasons: one catalogue, a
sentence each.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Rejection", "RejectionCount", "RejectionReason", "count_rejections"]


class RejectionReason(StrEnum):
    """Reasons, in the order in which they are looked at; `sentence` says when each shows."""

    POOL_NOT_ALLOWED = "PoolNotAllowed"
    SPOT_NOT_ALLOWED = "SpotNotAllowed"
    NODE_SELECTOR_MISMATCH = "NodeSelectorMismatch"
    TAINT_NOT_TOLERATED = "TaintNotTolerated"
    PRICE_UNKNOWN = "PriceUnknown"
    CURRENCY_DIFFERS = "CurrencyDiffers"
    METHOD_NOT_ALLOWED = "MethodNotAllowed"
    LOSSY_NOT_ALLOWED = "LossyNotAllowed"
    LAYOUT_CONFLICT = "LayoutConflict"
    METHOD_CONFLICT = "MethodConflict"
    UNSUPPORTED_PRECISION = "UnsupportedPrecision"
    CONTEXT_TOO_LONG = "ContextTooLong"
    MEMORY_TOO_SMALL = "MemoryTooSmall"
    NODE_TOO_SMALL = "NodeTooSmall"
    NO_CAPACITY = "NoCapacity"
    OVERLOADED = "Overloaded"
    SLO_MISSED = "SLOMissed"
    DEADLINE_MISSED = "DeadlineMissed"
    OVER_BUDGET = "OverBudget"
    BETTER_CANDIDATE = "BetterCandidate"

    @property
    def sentence(self) -> str:
        """When this reason shows."""
        return _SENTENCES[self]


_SENTENCES = {
    RejectionReason.POOL_NOT_ALLOWED: "Shows when placement.pools does not name the pool.",
    RejectionReason.SPOT_NOT_ALLOWED: "Shows when the pool's nodes are spot and placement.spot is Never.",
    RejectionReason.NODE_SELECTOR_MISMATCH: "Shows when the pool's nodes lack a label of placement.nodeSelector.",
    RejectionReason.TAINT_NOT_TOLERATED: "Shows when the pool has a taint that placement.tolerations do not cover.",
    RejectionReason.PRICE_UNKNOWN: "Shows when the price of the pool's nodes is not known: nothing is bought there.",
    RejectionReason.CURRENCY_DIFFERS: "Shows when the pool is priced in another currency than the budget.",
    RejectionReason.METHOD_NOT_ALLOWED: "Shows when methods.allow or methods.deny rules the method out.",
    RejectionReason.LOSSY_NOT_ALLOWED: "Shows when the method can change answers and methods.lossy is Never.",
    RejectionReason.LAYOUT_CONFLICT: "Shows when the model cannot be split in this way on these accelerators.",
    RejectionReason.METHOD_CONFLICT: "Shows when the method's flags conflict with the layout, model or accelerator.",
    RejectionReason.UNSUPPORTED_PRECISION: "Shows when the accelerator cannot compute in the precision asked for.",
    RejectionReason.CONTEXT_TOO_LONG: "Shows when the declared lengths exceed the model's own context length.",
    RejectionReason.MEMORY_TOO_SMALL: "Shows when weights and one request's KV cache exceed the memory.",
    RejectionReason.NODE_TOO_SMALL: "Shows when one replica is larger than a whole node of the pool.",
    RejectionReason.NO_CAPACITY: "Shows when no node has room for one replica now.",
    RejectionReason.OVERLOADED: "Shows when the replicas cannot carry the load at the asked confidence.",
    RejectionReason.SLO_MISSED: "Shows when an SLO does not hold at the asked confidence.",
    RejectionReason.DEADLINE_MISSED: "Shows when the batch is not done within its deadline at the asked confidence.",
    RejectionReason.OVER_BUDGET: "Shows when the candidate costs more than the budget at the asked confidence.",
    RejectionReason.BETTER_CANDIDATE: "Shows when the candidate keeps every limit and another is preferred.",
}


@dataclass(frozen=True, slots=True)
class Rejection:
    """One candidate, or all of a pool, layout or method, ruled out.

    `shortfall` orders misses of the same reason: 0 nearly made it; where a bound is missed it is
    (needed / bound) - 1.
    """

    reason: RejectionReason
    pool: str
    detail: str
    layout: str | None = None
    method: str | None = None
    replicas: int | None = None
    shortfall: float = 0.0


@dataclass(frozen=True, slots=True)
class RejectionCount:
    """How many candidates a reason ruled out, and the one that came nearest."""

    reason: RejectionReason
    count: int
    nearest: Rejection


def count_rejections(rejections: Iterable[Rejection]) -> tuple[RejectionCount, ...]:
    """Count by reason, in the catalogue's order; the nearest has the smallest shortfall, then the first name."""
    counts: dict[RejectionReason, int] = {}
    nearest: dict[RejectionReason, Rejection] = {}
    for rejection in rejections:
        counts[rejection.reason] = counts.get(rejection.reason, 0) + 1
        best = nearest.get(rejection.reason)
        if best is None or _nearness(rejection) < _nearness(best):
            nearest[rejection.reason] = rejection
    return tuple(
        RejectionCount(reason, counts[reason], nearest[reason]) for reason in RejectionReason if reason in counts
    )


def _nearness(rejection: Rejection) -> tuple[float, str, str, str, int]:
    return (
        rejection.shortfall,
        rejection.pool,
        rejection.layout or "",
        rejection.method or "",
        rejection.replicas or 0,
    )
