"""Requests drawn from a declared traffic: what is latent in it, fixed by a seed.

Separate from `metainf.workload`, which says what is declared, and from the simulator, which takes requests as given.

Common random numbers: each latent thing has a stream of its own from the seed, so that gaps (in units of their mean),
lengths and prefixes are the same whatever the rate and the method, and the first n of many requests are those of n.
"""

import math
from dataclasses import dataclass
from enum import IntEnum
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from metainf.settings import Speculation
from metainf.simulator.contract import EarlierTraffic, Requests
from metainf.speculation import UNKNOWN_MIXTURE, acceptance_ratio
from metainf.workload import ConcurrencyLoad, RateLoad, Repetitiveness, SharedPrefix, TokenLengths, Traffic

__all__ = ["HASH_BLOCK_TOKENS", "drawn_acceptance", "drawn_requests", "earlier_traffic"]

HASH_BLOCK_TOKENS = 16
"""Every block size that vLLM gives an attention layer is a multiple of it."""

_ACCEPTANCE_LOGIT_SD = 0.35
"""Spread of acceptance among workloads of one class.

Source: accepted lengths of 2.0 (role play) to 3.3 (code) of one EAGLE head with 3 drafts (vLLM blog 2026-05-26) are
acceptances of 0.48 and 0.79, two standard deviations of 0.35 around their middle in logits.
"""

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_NORMAL = NormalDist()


class _Stream(IntEnum):
    """What each stream of random numbers is for; the numbers are part of a corpus's meaning and never change."""

    GAPS = 1
    INPUT = 2
    OUTPUT = 3
    PREFIXES = 4
    ACCEPTANCE = 5


def _stream(seed: int, stream: _Stream) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, stream))))


@dataclass(frozen=True, slots=True)
class _Prefixes:
    hashes: IntArray
    offsets: IntArray
    has: NDArray[np.bool_]


def drawn_requests(
    traffic: Traffic,
    count: int,
    *,
    seed: int,
    requests_per_second: float | None = None,
    most_tokens: int | None = None,
) -> Requests:
    """`count` requests of the traffic.

    Parameters
    ----------
    requests_per_second : float, optional
        In place of the declared rate; the requests are otherwise the same.
    most_tokens : int, optional
        Prompts, then answers, are cut so that no request is longer: clients know the model's context.
    """
    load = traffic.load
    prefixes = _prefixes(traffic.shared_prefix, count, seed)
    arrival_s = np.zeros(count)
    if isinstance(load, RateLoad):
        rate = load.requests_per_second if requests_per_second is None else requests_per_second
        gaps = _unit_gaps(traffic.burstiness, count, seed)
        arrival_s = (np.cumsum(gaps) - gaps[:1]) / rate
    inputs = _inputs(traffic, prefixes.has, _stream(seed, _Stream.INPUT))
    outputs = _lengths(traffic.output_tokens, _stream(seed, _Stream.OUTPUT).standard_normal(count))
    if most_tokens is not None:
        inputs = np.minimum(inputs, most_tokens - 1)
        outputs = np.minimum(outputs, most_tokens - inputs)
    return Requests(
        arrival_s=arrival_s,
        input_tokens=inputs,
        output_tokens=outputs,
        block_hashes=prefixes.hashes,
        block_offsets=prefixes.offsets,
        hash_block_tokens=HASH_BLOCK_TOKENS,
        clients=load.concurrency if isinstance(load, ConcurrencyLoad) else 0,
    )


def earlier_traffic(traffic: Traffic) -> EarlierTraffic | None:
    """The same traffic as what was served before the first of its requests; None where it shares nothing."""
    prefix = traffic.shared_prefix
    if prefix is None or prefix.tokens < HASH_BLOCK_TOKENS or prefix.ratio <= 0.0:
        return None
    whole = traffic.input_tokens.mean_tokens + traffic.output_tokens.mean_tokens
    return EarlierTraffic(
        prefixes=prefix.distinct,
        prefix_hashes=prefix.tokens // HASH_BLOCK_TOKENS,
        prefix_ratio=prefix.ratio,
        own_tokens=max(0.0, whole - prefix.ratio * prefix.tokens),
    )


def _unit_gaps(burstiness: float, count: int, seed: int) -> FloatArray:
    """Gaps of mean 1 with this coefficient of variation: gamma, so exponential at 1 and equal at 0."""
    if burstiness == 0.0:
        return np.ones(count)
    shape = burstiness**-2
    return np.asarray(_stream(seed, _Stream.GAPS).standard_gamma(shape, count) / shape)


def _lengths(lengths: TokenLengths, normal: FloatArray) -> IntArray:
    sd = lengths.log_sd
    drawn = lengths.mean_tokens * np.exp(normal * sd - sd * sd / 2.0)
    return np.maximum(np.rint(drawn), 1.0).astype(np.int64)


def _inputs(traffic: Traffic, has_prefix: NDArray[np.bool_], random: np.random.Generator) -> IntArray:
    """Prompts; one with a prefix has a token beyond it at least, and the mean is the declared one all the same.

    Of a prompt with a prefix of p tokens, the part past p + 1 is that of the declared distribution, scaled for its
    mean: E[(x - p - 1)+] of a lognormal x is that of Black and Scholes' formula.
    """
    normal = random.standard_normal(len(has_prefix))
    lengths, prefix = traffic.input_tokens, traffic.shared_prefix
    plain = _lengths(lengths, normal)
    if prefix is None:
        return plain
    least, sd, mean = prefix.tokens + 1.0, lengths.log_sd, lengths.mean_tokens
    excess = mean - least
    if sd > 0.0 and excess > 0.0:
        far = (math.log(mean / least) + sd * sd / 2.0) / sd
        excess = mean * _NORMAL.cdf(far) - least * _NORMAL.cdf(far - sd)
    scale = max(mean - least, 0.0) / excess if excess > 0.0 else 0.0
    drawn = mean * np.exp(normal * sd - sd * sd / 2.0)
    longer = np.rint(least + scale * np.maximum(drawn - least, 0.0)).astype(np.int64)
    return np.where(has_prefix, longer, plain)


def _prefixes(prefix: SharedPrefix | None, count: int, seed: int) -> _Prefixes:
    """Block identities of each request's prefix: prefix k has the blocks k x n to k x n + n - 1."""
    none = np.zeros(0, dtype=np.int64)
    if prefix is None:
        return _Prefixes(none, none, np.zeros(count, dtype=np.bool_))
    uniform = _stream(seed, _Stream.PREFIXES).random((count, 2))
    has = uniform[:, 0] < prefix.ratio
    which = np.minimum((uniform[:, 1] * prefix.distinct).astype(np.int64), prefix.distinct - 1)[has]
    blocks = prefix.tokens // HASH_BLOCK_TOKENS
    hashes = (which[:, None] * blocks + np.arange(blocks)).ravel()
    offsets = np.concatenate([[0], np.cumsum(np.where(has, blocks, 0))]).astype(np.int64)
    return _Prefixes(hashes, offsets, has)


def drawn_acceptance(
    speculation: Speculation | None,
    repetitiveness: Repetitiveness,
    *,
    seed: int,
    context_tokens: float | None = None,
    offset_logit: float = 0.0,
) -> float:
    """Probability that a draft is right in this workload: around what its class has, whose class may be unknown.

    `offset_logit` is what the drafter is better by than others of its kind.
    """
    if speculation is None:
        return 0.0
    random = _stream(seed, _Stream.ACCEPTANCE)
    uniform, normal = random.random(), random.standard_normal()
    if repetitiveness is Repetitiveness.UNKNOWN:
        shares = np.cumsum([share for _, share in UNKNOWN_MIXTURE])
        repetitiveness = UNKNOWN_MIXTURE[min(int(np.searchsorted(shares, uniform)), len(shares) - 1)][0]
    middle = acceptance_ratio(speculation, repetitiveness, context_tokens)
    if middle <= 0.0:
        return 0.0
    logit = math.log(middle / (1.0 - middle)) + offset_logit + _ACCEPTANCE_LOGIT_SD * float(normal)
    return 1.0 / (1.0 + math.exp(-logit))
