"""Which limit binds when nothing is chosen: the catalogue, and which rejection of candidates comes to which.

Separate from `selection`, which finds out, since conditions, decisions and the documentation name the same limits.
"""

from enum import StrEnum

from metainf.rejections import RejectionReason

__all__ = ["LIMIT_OF_REJECTION", "BindingLimit"]


class BindingLimit(StrEnum):
    """What stands in the way when nothing is chosen; also the reason of the condition Feasible."""

    NO_MATCHING_POOL = "NoMatchingPool"
    PRICE_UNKNOWN = "PriceUnknown"
    NO_METHOD_ALLOWED = "NoMethodAllowed"
    MODEL_DOES_NOT_FIT = "ModelDoesNotFit"
    NO_CAPACITY = "NoCapacity"
    LOAD_TOO_HIGH = "LoadTooHigh"
    SLO_UNREACHABLE = "SLOUnreachable"
    DEADLINE_UNREACHABLE = "DeadlineUnreachable"
    BUDGET_TOO_LOW = "BudgetTooLow"

    @property
    def sentence(self) -> str:
        """When this limit binds."""
        return _LIMIT_SENTENCES[self]


_LIMIT_SENTENCES = {
    BindingLimit.NO_MATCHING_POOL: "Shows when no node pool is there that the workload may use.",
    BindingLimit.PRICE_UNKNOWN: "Shows when the price of every usable pool is unknown or in another currency.",
    BindingLimit.NO_METHOD_ALLOWED: "Shows when methods.allow and methods.deny leave no method.",
    BindingLimit.MODEL_DOES_NOT_FIT: "Shows when no replica of the model fits any usable pool's accelerators.",
    BindingLimit.NO_CAPACITY: "Shows when a candidate keeps every limit but its nodes are taken now.",
    BindingLimit.LOAD_TOO_HIGH: "Shows when no candidate carries the load at the asked confidence.",
    BindingLimit.SLO_UNREACHABLE: "Shows when no candidate keeps every SLO at the asked confidence, at any price.",
    BindingLimit.DEADLINE_UNREACHABLE: "Shows when no candidate finishes the batch within its deadline.",
    BindingLimit.BUDGET_TOO_LOW: "Shows when every candidate that keeps the SLOs costs more than the budget.",
}

LIMIT_OF_REJECTION = {
    RejectionReason.POOL_NOT_ALLOWED: BindingLimit.NO_MATCHING_POOL,
    RejectionReason.SPOT_NOT_ALLOWED: BindingLimit.NO_MATCHING_POOL,
    RejectionReason.NODE_SELECTOR_MISMATCH: BindingLimit.NO_MATCHING_POOL,
    RejectionReason.TAINT_NOT_TOLERATED: BindingLimit.NO_MATCHING_POOL,
    RejectionReason.PRICE_UNKNOWN: BindingLimit.PRICE_UNKNOWN,
    RejectionReason.CURRENCY_DIFFERS: BindingLimit.PRICE_UNKNOWN,
    RejectionReason.METHOD_NOT_ALLOWED: BindingLimit.NO_METHOD_ALLOWED,
    RejectionReason.LOSSY_NOT_ALLOWED: BindingLimit.NO_METHOD_ALLOWED,
    RejectionReason.LAYOUT_CONFLICT: BindingLimit.MODEL_DOES_NOT_FIT,
    RejectionReason.METHOD_CONFLICT: BindingLimit.NO_METHOD_ALLOWED,
    RejectionReason.UNSUPPORTED_PRECISION: BindingLimit.MODEL_DOES_NOT_FIT,
    RejectionReason.CONTEXT_TOO_LONG: BindingLimit.MODEL_DOES_NOT_FIT,
    RejectionReason.MEMORY_TOO_SMALL: BindingLimit.MODEL_DOES_NOT_FIT,
    RejectionReason.NODE_TOO_SMALL: BindingLimit.MODEL_DOES_NOT_FIT,
    RejectionReason.NO_CAPACITY: BindingLimit.NO_CAPACITY,
    RejectionReason.OVERLOADED: BindingLimit.LOAD_TOO_HIGH,
    RejectionReason.SLO_MISSED: BindingLimit.SLO_UNREACHABLE,
    RejectionReason.DEADLINE_MISSED: BindingLimit.DEADLINE_UNREACHABLE,
    RejectionReason.OVER_BUDGET: BindingLimit.BUDGET_TOO_LOW,
}
