"""Why a method or a layout cannot run here, as typed reasons with a sentence.

Separate because methods, layouts and flags are checked in three places and rejected under one catalogue.
"""

from dataclasses import dataclass
from enum import StrEnum

from metainf.rejections import RejectionReason

__all__ = ["Conflict", "ConflictReason"]


class ConflictReason(StrEnum):
    """What stands in the way; each member's comment says when it shows."""

    UNSUPPORTED_PRECISION = "UnsupportedPrecision"  # the accelerator cannot hold or compute that number format
    ALREADY_QUANTIZED = "AlreadyQuantized"  # the checkpoint has its own quantisation, which vLLM lets nobody override
    NO_MTP_LAYERS = "NoMtpLayers"  # the model has no next-token prediction layers
    NO_DRAFT_MODEL = "NoDraftModel"  # the method needs a draft model and the workload names none
    SPECULATION_CONFLICT = "SpeculationConflict"  # speculation with this layout, or with another speculation
    CHUNKED_PREFILL_CONFLICT = "ChunkedPrefillConflict"  # the token budget is below the longest prompt
    BATCH_LIMITS_CONFLICT = "BatchLimitsConflict"  # more sequences than tokens in one step
    OFFLOAD_CONFLICT = "OffloadConflict"  # the KV cache cannot be offloaded here
    CPU_LIMIT = "CpuLimit"  # vLLM's CPU backend does not do this
    CONTEXT_TOO_LONG = "ContextTooLong"  # max-model-len is above the model's own
    HEADS_NOT_DIVISIBLE = "HeadsNotDivisible"  # attention heads do not divide over the tensor-parallel ranks
    LAYERS_TOO_FEW = "LayersTooFew"  # fewer layers than pipeline stages
    NOT_MOE = "NotMoe"  # experts to spread, or ranks in lock-step, in a model without experts
    EXPERTS_NOT_SPREAD = "ExpertsNotSpread"  # expert parallelism over one rank, or over more ranks than experts
    NO_FAST_LINK = "NoFastLink"  # a layout over devices that cannot reach each other
    NODE_TOO_SMALL = "NodeTooSmall"  # one replica is wider than a node
    NOT_POSITIVE = "NotPositive"  # a degree of parallelism below one
    WIDTH_NOT_DIVISIBLE = "WidthNotDivisible"  # a matrix, or a block of its quantisation, would be cut in parts
    SAME_AS_DEFAULT = "SameAsDefault"  # the method changes nothing here


_LAYOUT_REASONS = frozenset(
    {
        ConflictReason.HEADS_NOT_DIVISIBLE,
        ConflictReason.LAYERS_TOO_FEW,
        ConflictReason.NOT_MOE,
        ConflictReason.EXPERTS_NOT_SPREAD,
        ConflictReason.NO_FAST_LINK,
        ConflictReason.NODE_TOO_SMALL,
        ConflictReason.NOT_POSITIVE,
        ConflictReason.WIDTH_NOT_DIVISIBLE,
    }
)


@dataclass(frozen=True, slots=True)
class Conflict:
    """One reason, and the facts of this case as a sentence."""

    reason: ConflictReason
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"

    @property
    def rejection_reason(self) -> RejectionReason:
        """The reason under which a candidate with this conflict is rejected."""
        if self.reason is ConflictReason.UNSUPPORTED_PRECISION:
            return RejectionReason.UNSUPPORTED_PRECISION
        if self.reason is ConflictReason.CONTEXT_TOO_LONG:
            return RejectionReason.CONTEXT_TOO_LONG
        if self.reason in _LAYOUT_REASONS:
            return RejectionReason.LAYOUT_CONFLICT
        return RejectionReason.METHOD_CONFLICT
