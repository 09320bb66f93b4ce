"""The traffics that a bench sends, and their form as a trace that `vllm bench serve` replays.

Separate from the loads (how many at a time) and from what sends them. A trace says prompt and answer lengths and which
chunks of 64 prompt tokens are the same as others', as Mooncake's does; vLLM draws the tokens, so that lengths are exact
for every tokeniser. Its times are not used: clients wait for their answers, or a rate is given.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from metainf.errors import InvalidWorkloadError
from metainf.workload import Load, Repetitiveness, SharedPrefix, TokenLengths, Traffic

__all__ = ["CHUNK_TOKENS", "STUDY_TRAFFICS", "BenchTraffic", "Part", "traffic_named"]

CHUNK_TOKENS = 64
_APART = 1_000_000
"""Between the chunk ids of two seeds: no run finds in the cache what another left there."""


@dataclass(frozen=True, slots=True)
class Part:
    """Requests of one length; `share` of each round of the traffic."""

    share: int
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class BenchTraffic:
    """Requests by their lengths, what their prompts share, and how freely answers are drawn."""

    name: str
    summary: str
    parts: tuple[Part, ...]
    prefix_tokens: int = 0
    prefixes: int = 1
    temperature: float = 1.0
    repetitiveness: Repetitiveness = Repetitiveness.LOW

    def __post_init__(self) -> None:
        if not self.parts or any(min(p.share, p.input_tokens, p.output_tokens) < 1 for p in self.parts):
            raise InvalidWorkloadError(f"traffic {self.name}: shares and lengths must be at least 1")
        if self.prefix_tokens % CHUNK_TOKENS or self.prefix_tokens > min(p.input_tokens for p in self.parts):
            raise InvalidWorkloadError(
                f"traffic {self.name}: the prefix must be a multiple of {CHUNK_TOKENS} tokens within every prompt"
            )

    @property
    def longest_tokens(self) -> int:
        """The longest request, prompt and answer."""
        return max(part.input_tokens + part.output_tokens for part in self.parts)

    def under(self, load: Load) -> Traffic:
        """What a person would declare of it under a load."""
        lengths = [
            _lengths([part.input_tokens for part in self.parts], [part.share for part in self.parts]),
            _lengths([part.output_tokens for part in self.parts], [part.share for part in self.parts]),
        ]
        shared = SharedPrefix(self.prefix_tokens, 1.0, self.prefixes) if self.prefix_tokens else None
        return Traffic(load, lengths[0], lengths[1], shared_prefix=shared, repetitiveness=self.repetitiveness)

    def trace(self, requests: int, seed: int) -> str:
        """So many requests as lines of a trace; the same seed gives the same, another one nothing in common."""
        return "".join(json.dumps(line) + "\n" for line in self._lines(requests, seed))

    def _lines(self, requests: int, seed: int) -> Iterator[dict[str, object]]:
        round_parts = [part for part in self.parts for _ in range(part.share)]
        order = np.random.default_rng(seed).permutation(max(requests, len(round_parts))).tolist()
        fresh = seed * _APART + self.prefixes * self.prefix_tokens
        for number in order[:requests]:
            part = round_parts[number % len(round_parts)]
            shared = self.prefix_tokens // CHUNK_TOKENS
            first = seed * _APART + number % self.prefixes * shared
            own = -(-(part.input_tokens - self.prefix_tokens) // CHUNK_TOKENS)
            ids = [*range(first, first + shared), *range(fresh, fresh + own)]
            fresh += own
            yield {
                "timestamp": 0,
                "input_length": part.input_tokens,
                "output_length": part.output_tokens,
                "hash_ids": ids,
            }


def _lengths(tokens: Sequence[int], shares: Sequence[int]) -> TokenLengths:
    """Mean and 95th percentile of a mixture; the mean alone where all are equal."""
    mean = sum(t * s for t, s in zip(tokens, shares, strict=True)) / sum(shares)
    if len(set(tokens)) == 1:
        return TokenLengths(mean)
    ordered = sorted(zip(tokens, shares, strict=True))
    reached = accumulate(share for _, share in ordered)
    p95 = next(t for (t, _), upto in zip(ordered, reached, strict=True) if upto >= 0.95 * sum(shares))
    return TokenLengths(mean, float(p95))


STUDY_TRAFFICS = (
    BenchTraffic("shared", "one of 4 prefixes of 512 tokens, 64 of their own", (Part(1, 576, 24),), 512, 4),
    BenchTraffic("unique", "448 tokens of their own", (Part(1, 448, 24),)),
    BenchTraffic("decode", "short prompts, long answers", (Part(1, 64, 96),)),
    BenchTraffic("mixed", "one long prompt to three short ones", (Part(1, 1024, 16), Part(3, 64, 48))),
    BenchTraffic(
        "repetitive",
        "answers at temperature 0, which go in circles",
        (Part(1, 64, 96),),
        temperature=0.0,
        repetitiveness=Repetitiveness.HIGH,
    ),
)
"""What the study sends; lengths are such that two cores answer in seconds."""


def traffic_named(name: str) -> BenchTraffic:
    """The traffic of that name.

    Raises
    ------
    InvalidWorkloadError
        There is none.
    """
    for traffic in STUDY_TRAFFICS:
        if traffic.name == name:
            return traffic
    known = ", ".join(traffic.name for traffic in STUDY_TRAFFICS)
    raise InvalidWorkloadError(f"there is no traffic {name!r}: known are {known}")
