"""What speculative decoding gains and costs: tokens per step, and the price of drafting and of verifying.

Separate because the numbers come from other people's measurements of drafters, not from the roofline.
"""

from dataclasses import dataclass

from metainf.architecture import ModelArchitecture
from metainf.settings import Speculation, SpeculationKind
from metainf.workload import Repetitiveness

__all__ = ["DraftCost", "acceptance_ratio", "draft_cost", "tokens_per_step"]

_NGRAM_ACCEPTANCE = {
    Repetitiveness.UNKNOWN: 0.15,
    Repetitiveness.LOW: 0.05,
    Repetitiveness.MEDIUM: 0.4,
    Repetitiveness.HIGH: 0.7,
}
"""Probability that a copied token is right.

Source: own runs of vLLM 0.32.0 on CPU, 0.78 (4 drafts) and 0.70 (8) on looping text, 0 on random text; 2.8x on
summaries (vLLM blog 2024-10-17) needs about 0.7 with 4 drafts. Medium and Unknown lie between and are assumptions.
"""

_TRAINED_ACCEPTANCE = {
    SpeculationKind.EAGLE: 0.62,
    SpeculationKind.MTP: 0.80,
    SpeculationKind.DRAFT_MODEL: 0.55,
}
"""Probability that a drafted token is right.

Source: EAGLE: mean accepted lengths of 2.0 (role play) to 3.3 (code) with 3 to 4 drafts, vLLM blog 2026-05-26. MTP:
0.85 to 0.90 for the second token, DeepSeek-V3 technical report, arXiv 2412.19437, less on chat. Draft models:
1.5x at best in vLLM blog 2024-10-17.
"""

_NGRAM_SEQUENCE_S = 40e-6
"""Host time of matching per sequence and step. Source: vLLM V1 matches on the CPU; vllm-project/vllm#16258."""
_LAUNCH_S = 60e-6  # one pass of a drafter, beside its bytes: kernels of one or two layers and sampling
_DRAFT_MODEL_RATIO = 0.12  # of the model's own step; a drafter that is not described further


@dataclass(frozen=True, slots=True)
class DraftCost:
    """What drafting adds to a step."""

    step_ratio: float
    """Of the model's own step."""
    step_s: float
    sequence_s: float


def acceptance_ratio(speculation: Speculation, repetitiveness: Repetitiveness) -> float:
    """Probability that a drafted token is accepted, given that those before it were."""
    if speculation.kind is SpeculationKind.NGRAM:
        return _NGRAM_ACCEPTANCE[repetitiveness]
    return _TRAINED_ACCEPTANCE[speculation.kind]


def tokens_per_step(speculation: Speculation | None, repetitiveness: Repetitiveness) -> float:
    """Mean tokens that a sequence gains in a step: accepted drafts, and the one that the model itself adds.

    Source: (1 - a^(k+1)) / (1 - a) for independent acceptance, Leviathan et al., arXiv 2211.17192, equation 1.
    """
    if speculation is None:
        return 1.0
    accepted = acceptance_ratio(speculation, repetitiveness)
    return float((1.0 - accepted ** (speculation.tokens + 1)) / (1.0 - accepted))


def draft_cost(speculation: Speculation | None, architecture: ModelArchitecture) -> DraftCost:
    """What drafting `speculation.tokens` tokens adds to each step."""
    if speculation is None:
        return DraftCost(0.0, 0.0, 0.0)
    if speculation.kind is SpeculationKind.NGRAM:
        return DraftCost(0.0, 0.0, _NGRAM_SEQUENCE_S)
    if speculation.kind is SpeculationKind.DRAFT_MODEL:
        return DraftCost(_DRAFT_MODEL_RATIO * speculation.tokens, _LAUNCH_S * speculation.tokens, 0.0)
    # One layer of the model and the head, which is read as often as the layers' share of the vocabulary says.
    head = architecture.vocab_size * architecture.embedding_size / max(1, architecture.active_parameters)
    ratio = min(0.5, 1.0 / architecture.layers + head)
    return DraftCost(ratio * speculation.tokens, _LAUNCH_S * speculation.tokens, 0.0)
