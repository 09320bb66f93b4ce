"""Cuts an engine that prices one operation at a time into tables of step times.

Separate from the library that has such an engine (`oracle`): what is attention, what are experts and what a launch
costs is decided here, and tested on engines whose answer is known.

Measured times are kept as they are, also where more tokens take less: some kernels for few tokens are worse than those
for many.

The engine prices the operations of a prompt phase and of a decoding phase. A mixed step runs projections and experts
once over all of its tokens, and attention by phase. Up to 256 tokens the operations of decoding count (shared experts
then run beside the routed ones, vLLM 0.24, VLLM_SHARED_EXPERTS_STREAM_TOKEN_THRESHOLD), above them those of a prompt.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from metainf.simulator.contract import StepTimes

__all__ = ["GRID_VERSION", "Engine", "sampled"]

FloatArray = NDArray[np.float64]

GRID_VERSION = 3
"""Part of every stored table's digest: raise it when points or the cutting change."""

_TOKENS = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, *range(64, 129, 16), *range(160, 257, 32), 257, 384, 512)
"""Below 512 tokens those that vLLM pads to: prices of 9 or 17 tokens jump with the tile, and no step meets them."""
_MANY_TOKENS = (*(m + d for m in range(512, 4353, 256) for d in (0, 1)), 6144, 8192, 12288, 16384, 32768)
_EXPERT_TOKENS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256, 257, 320, 384, 448, 512)
_MANY_EXPERT_TOKENS = (640, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 32768, 65536)
_SEQUENCES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)
_CONTEXTS = tuple(m * 2**k for k in range(4, 17) for m in (2, 3))[:-1]
_CHUNKS = (1, 16, 32, 48, 64, 96, 128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048, 2560)
_LONG_CHUNKS = (3072, 3584, 4096, 5120, 6144, 7168, 8192, 10240, 12288, 16384, 24576, 32768)
_BEFORE = (0, 64, 128, 256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 65536, 131072)
"""Where the library's tables have their points, and points between where they are curved."""

_DECODE_TOKENS = 256
_FAR = 65536  # tokens before a chunk at which its attention is a straight line


class Engine(Protocol):
    """Prices operations by their places in two lists, one for a prompt phase and one for decoding."""

    @property
    def prompt_names(self) -> Sequence[str]:
        """Operations of a prompt phase; a name may come more than once."""

    @property
    def decode_names(self) -> Sequence[str]:
        """Operations of a decoding step."""

    def prompt_s(self, places: Sequence[int], tokens: int, before: int) -> float:
        """Seconds of these operations for `tokens` of one prompt after `before` that are cached."""

    def decode_s(self, places: Sequence[int], sequences: int, context: int) -> float:
        """Seconds of these operations for sequences with so many cached tokens each."""


def sampled(engine: Engine, *, ranks: int) -> StepTimes:
    """What runs on the device, of one rank; host work is not in it.

    Parameters
    ----------
    engine : Engine
    ranks : data-parallel ranks whose tokens meet at the experts
    """
    cut = _Cut(engine)
    tokens = np.array([0, *_TOKENS, *_MANY_TOKENS[1:]], dtype=np.float64)
    expert_tokens = np.array([0, *_EXPERT_TOKENS, *_MANY_EXPERT_TOKENS], dtype=np.float64)
    sequences = np.array([0, *_SEQUENCES], dtype=np.float64)
    contexts = np.array([0, *_CONTEXTS], dtype=np.float64)
    before = np.array(_BEFORE, dtype=np.float64)
    chunks = np.array([*_CHUNKS, *_LONG_CHUNKS], dtype=np.float64)
    prompt_s, chunk_s = cut.chunks_s(chunks, before)
    head_s, head_row_s = cut.head_s()
    experts = np.array([0.0, *(cut.expert_s(max(1, round(t / ranks))) for t in expert_tokens[1:])])
    return StepTimes(
        tokens=tokens,
        token_s=np.array([cut.token_s(max(1, int(t))) for t in tokens]),
        decode_sequences=sequences,
        decode_context_tokens=contexts,
        decode_s=cut.decodes_s(sequences, contexts),
        chunk_tokens=chunks,
        chunk_context_tokens=before,
        chunk_s=chunk_s,
        expert_tokens=expert_tokens * 1.0,
        expert_s=experts,
        prompt_step_s=prompt_s,
        head_s=head_s,
        head_row_s=head_row_s,
    )


class _Cut:
    """One engine's operations by kind; times in seconds."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._prompt, self._decode = _Kinds(engine.prompt_names), _Kinds(engine.decode_names)
        # Latent and sparse attention are priced as modules, with their projections.
        self._is_module = not any("qkv" in name for name in engine.prompt_names)
        self._floor_s = self._attention_s(1, 1)
        self._bases: dict[int, float] = {}

    def token_s(self, tokens: int) -> float:
        """Whatever goes with the tokens alone, the floor of an attention launch among it."""
        return self._plain_s(tokens) + self._floor_s + self._base_s(tokens)

    def expert_s(self, tokens: int) -> float:
        """Routed experts and their collectives."""
        return self._step_s(tokens, self._prompt.experts, self._decode.experts)

    def decodes_s(self, sequences: FloatArray, contexts: FloatArray) -> FloatArray:
        """Attention of decoding sequences beyond what every step pays."""
        values = np.zeros((len(sequences), len(contexts)))
        for i, count in enumerate(sequences.astype(int).tolist()):
            for j, context in enumerate(contexts.astype(int).tolist()):
                if count:
                    values[i, j] = self._attention_s(count, max(1, context)) - self._floor_s - self._base_s(count)
        return _rising(_rising(np.maximum(values, 0.0)).T).T

    def chunks_s(self, chunks: FloatArray, before: FloatArray) -> tuple[float, FloatArray]:
        """The launch of prompts' attention, and beyond it that of each chunk."""
        values = np.array([[self._chunk_s(int(n), int(p)) for p in before] for n in chunks])
        values -= np.array([[self._floor_s + self._base_s(int(n))] for n in chunks])
        launch = max(0.0, float(values[:, 0].min()))
        return launch, _rising(_rising(np.maximum(values - launch, 0.0)).T).T

    def head_s(self) -> tuple[float, float]:
        """The vocabulary's projection of one row, and what each further row adds."""
        engine = self._engine
        one, many = (engine.decode_s(self._decode.heads, rows, 1) for rows in (1, 256))
        per_row = max(0.0, (many - one) / 255.0)
        return max(0.0, one - per_row), per_row

    def _plain_s(self, tokens: int) -> float:
        return self._step_s(tokens, self._prompt.plain, self._decode.plain)

    def _step_s(self, tokens: int, prompt: list[int], decode: list[int]) -> float:
        if tokens <= _DECODE_TOKENS:
            return self._engine.decode_s(decode, tokens, 1)
        return self._engine.prompt_s(prompt, tokens, 0)

    def _base_s(self, tokens: int) -> float:
        """Projections inside of an attention module, beyond the floor."""
        if not self._is_module:
            return 0.0
        if tokens not in self._bases:
            few = min(tokens, _DECODE_TOKENS)
            base = min(self._attention_s(few, 1), self._chunk_s(few, 0)) - self._floor_s
            if tokens > _DECODE_TOKENS:
                slope = (self._chunk_s(tokens, _FAR) - self._chunk_s(tokens, _FAR // 2)) / (_FAR // 2)
                base = max(base, self._chunk_s(tokens, 0) - max(0.0, slope) * tokens / 2 - self._floor_s)
            self._bases[tokens] = max(0.0, base)
        return self._bases[tokens]

    def _attention_s(self, sequences: int, context: int) -> float:
        return self._engine.decode_s(self._decode.attention, sequences, context)

    def _chunk_s(self, tokens: int, before: int) -> float:
        return self._engine.prompt_s(self._prompt.attention, tokens, before)


class _Kinds:
    """Places of a phase's operations, by kind; the library's own naming rules decide."""

    def __init__(self, names: Sequence[str]) -> None:
        kinds = [_kind(name.split("_", maxsplit=1)[1]) for name in names]
        self.attention, self.experts, self.heads, self.plain = (
            [place for place, found in enumerate(kinds) if found == kind]
            for kind in ("attention", "experts", "head", "plain")
        )


def _kind(name: str) -> str:
    if name.endswith(("attention", "mla_block", "conv1d", "gdn_scan", "gdn_recurrence", "mamba_ssm")):
        return "attention"  # a recurrent state is passed on by other kernels in either phase, too
    if name.endswith(("moe", "moe_pre_dispatch", "moe_post_dispatch", "moe_overlap")):
        return "experts"
    return "head" if name == "logits_gemm" else "plain"


def _rising(values: FloatArray) -> FloatArray:
    """The least values, none below the given, that never fall along the first axis."""
    return np.maximum.accumulate(values, axis=0)
