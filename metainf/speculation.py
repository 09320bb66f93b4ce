"""What speculative decoding gains and costs: tokens per step, and the price of drafting and of verifying.

Separate because the numbers come from other people's measurements of drafters, not from the roofline.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from metainf.architecture import ModelArchitecture
from metainf.settings import Speculation, SpeculationKind
from metainf.workload import Repetitiveness, Traffic

__all__ = [
    "DRAFTED_SEQUENCES",
    "READS_HIDDEN_STATES",
    "UNKNOWN_MIXTURE",
    "DraftCost",
    "acceptance_ratio",
    "context_share",
    "decoding_context",
    "draft_cost",
    "drafting_context_tokens",
    "fades",
    "mean_tokens",
    "tokens_per_step",
]

FloatArray = NDArray[np.float64]

READS_HIDDEN_STATES = frozenset({SpeculationKind.EAGLE, SpeculationKind.MTP})
"""Drafters that need the model's hidden states: the last block of a prefix that is hit is computed again for them.

Source: vLLM 0.32.0, vllm/v1/core/single_type_kv_cache_manager.py, `drop_eagle_block`.
"""

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

UNKNOWN_MIXTURE = (
    (Repetitiveness.LOW, 0.55),
    (Repetitiveness.MEDIUM, 0.30),
    (Repetitiveness.HIGH, 0.15),
)
"""What text of which nothing is declared may turn out to be, and how often.

Assumed: most traffic is chat, which repeats little; code and summaries do.
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

_EAGLE_CONTEXT_TOKENS = (2048.0, 8192.0, 16384.0, 18432.0)
_EAGLE_CONTEXT_SHARE = (1.0, 0.68, 0.07, 0.0)
"""What an EAGLE head keeps of its acceptance at such contexts, with straight lines between them.

Heads are commonly trained on 2,048 tokens. Source: EAGLE-3 on Qwen3-8B, vllm-project/speculators#684: 2.30, 2.04, 1.86,
1.69, 1.40, 1.29, 1.16 and 1.09 tokens a step at 2k, 4k ... 16k, which three drafts of these shares meet within 5 %.
From 16k to 20k it stays at 1.08 to 1.09, of ten prompts each; that is less than drafting costs, and is left out so that
nobody counts on it.
"""

_NGRAM_SEQUENCE_S = 40e-6
"""Host time of matching per sequence and step on a CPU, which has no kernel for it. Source: vllm-project/vllm#16258."""
_LAUNCH_S = 60e-6
"""One pass of a drafter, beside its bytes: kernels of one or two layers and sampling.

The two kernels that match n-grams on an accelerator (vLLM 0.32.0, vllm/v1/worker/gpu/spec_decode/ngram/speculator.py)
are taken to cost the same.
"""
DRAFTED_SEQUENCES = 256.0
"""Passes of a drafter after its first have a token of each sequence: what one more adds is the chord from 1 to here."""
_DRAFT_MODEL_RATIO = 0.12  # of the model's own step; a drafter that is not described further


@dataclass(frozen=True, slots=True)
class DraftCost:
    """What drafting adds to a step: passes of the drafter, and time of its own.

    The first pass goes over all tokens of the step, prompts included; each of the others over one token of each
    sequence. Logits are made for one row of each sequence in each pass. Source: vLLM 0.32.0,
    vllm/v1/worker/gpu/spec_decode/target_dependent_ar/speculator.py, _prefill and _multi_step_decode.
    """

    passes: int = 0
    layers_ratio: float = 0.0
    """Of a pass's layers over the model's."""
    head_ratio: float = 0.0
    """Of a pass's head over the model's."""
    step_s: float = 0.0
    """Of all passes together, in each step."""
    sequence_s: float = 0.0

    @property
    def every_ratio(self) -> float:
        """Of the layers of all passes over the model's."""
        return self.layers_ratio * self.passes

    @property
    def later_ratio(self) -> float:
        """Of the layers of the passes after the first over the model's."""
        return self.layers_ratio * max(0, self.passes - 1)

    @property
    def heads_ratio(self) -> float:
        """Of the heads of all passes over the model's."""
        return self.head_ratio * self.passes

    def scaled(self, factor: float) -> "DraftCost":
        """The same passes at so many times the cost."""
        return replace(
            self,
            layers_ratio=factor * self.layers_ratio,
            head_ratio=factor * self.head_ratio,
            step_s=factor * self.step_s,
            sequence_s=factor * self.sequence_s,
        )


def fades(speculation: Speculation) -> bool:
    """Whether what is drafted gets worse as the context grows beyond what the drafter was trained on."""
    return speculation.kind is SpeculationKind.EAGLE


def context_share(context_tokens: float | FloatArray) -> FloatArray:
    """What is left of the acceptance of drafts that fade, at so many tokens of context."""
    return np.asarray(np.interp(context_tokens, _EAGLE_CONTEXT_TOKENS, _EAGLE_CONTEXT_SHARE))


def decoding_context(
    input_tokens: float | FloatArray, output_tokens: float | FloatArray, output_squared_cv: float | FloatArray
) -> FloatArray:
    """Mean context of a decoding step, tokens, by the means of prompts and answers: long answers have more steps."""
    return np.asarray(input_tokens + output_tokens * (1.0 + output_squared_cv) / 2.0)


def drafting_context_tokens(traffic: Traffic) -> float:
    """Tokens before the drafts in the mean over decoding steps."""
    asked, answer = traffic.input_tokens, traffic.output_tokens
    return float(decoding_context(asked.mean_tokens, answer.mean_tokens, answer.squared_cv))


def acceptance_ratio(
    speculation: Speculation, repetitiveness: Repetitiveness, context_tokens: float | None = None
) -> float:
    """Probability that a drafted token is accepted, given that those before it were.

    `context_tokens` as `drafting_context_tokens` has them; None is a context that the drafter was trained on.
    """
    if speculation.kind is SpeculationKind.NGRAM:
        return _NGRAM_ACCEPTANCE[repetitiveness]
    accepted = _TRAINED_ACCEPTANCE[speculation.kind]
    if context_tokens is None or not fades(speculation):
        return accepted
    return accepted * float(context_share(context_tokens))


def mean_tokens(accepted: float | FloatArray, drafts: float | FloatArray) -> FloatArray:
    """Mean tokens that a sequence gains in a step: accepted drafts, and the one that the model itself adds.

    Source: (1 - a^(k+1)) / (1 - a) for independent acceptance, Leviathan et al., arXiv 2211.17192, equation 1.
    """
    ratio = np.asarray(accepted, dtype=np.float64)
    return np.asarray((1.0 - ratio ** (np.asarray(drafts) + 1.0)) / (1.0 - ratio))


def tokens_per_step(
    speculation: Speculation | None, repetitiveness: Repetitiveness, context_tokens: float | None = None
) -> float:
    """`mean_tokens` of what is drafted on such text; 1 without drafts."""
    if speculation is None:
        return 1.0
    return float(mean_tokens(acceptance_ratio(speculation, repetitiveness, context_tokens), speculation.tokens))


def draft_cost(speculation: Speculation | None, architecture: ModelArchitecture, *, on_cpu: bool) -> DraftCost:
    """What drafting `speculation.tokens` tokens adds to each step."""
    if speculation is None:
        return DraftCost()
    if speculation.kind is SpeculationKind.NGRAM:
        return DraftCost(sequence_s=_NGRAM_SEQUENCE_S) if on_cpu else DraftCost(step_s=_LAUNCH_S)
    passes = speculation.tokens
    if speculation.kind is SpeculationKind.DRAFT_MODEL:
        return DraftCost(passes, _DRAFT_MODEL_RATIO, 0.0, _LAUNCH_S * passes)
    # A head of EAGLE, or the module that a model has for it, is one layer and the model's own head.
    return DraftCost(passes, 1.0 / architecture.layers, 1.0, _LAUNCH_S * passes)
