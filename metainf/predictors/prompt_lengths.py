"""The part of prompts that is left to compute where some begin with a cached prefix: mean, variation, quantiles.

Separate from the lanes, which only add up work, because it follows from what a declared prefix means: of a prompt that
begins with one of p tokens, the part past p + 1 is that of the declared lengths, scaled for its mean.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from metainf.predictors.contract import FloatArray

__all__ = ["computed_at", "computed_prompts", "normal_quantile"]

_LEAST_LOG_SD = 1e-6


def computed_prompts(
    traffic: Any, hit_ratio: FloatArray, hit_tokens: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean tokens to compute, their squared variation, and what one of these tokens attends to, arrays of one shape.

    `traffic` are TrafficFacts of arrays; `hit_ratio` of all requests save `hit_tokens` each.
    """
    t = traffic
    plain_cv = np.expm1(t.input_log_sd**2)
    prefixed = np.maximum(t.prefix_ratio, hit_ratio)
    own_variance = np.zeros_like(t.input_tokens)
    if np.any(prefixed > 0):
        first, second = _excess_moments(t)
        own_variance = (t.input_tokens - _least(t)) ** 2 * (second / np.maximum(first, 1e-9) ** 2 - 1.0)
        own_variance = np.where(t.input_log_sd > 0, np.maximum(own_variance, 0.0), 0.0)
    left = np.maximum(t.input_tokens - hit_tokens, 1.0)
    mean = np.maximum(t.input_tokens - hit_ratio * hit_tokens, 1.0)
    # Squares of what is computed: of requests that hit, that begin with a prefix and miss, and that begin with none.
    hits = hit_ratio * (left**2 + own_variance)
    misses = (prefixed - hit_ratio) * (t.input_tokens**2 + own_variance)
    others = (1.0 - prefixed) * t.input_tokens**2 * (1.0 + plain_cv)
    squares = hits + misses + others
    context = (hit_ratio * left * hit_tokens + squares / 2.0) / mean
    return mean, np.maximum(squares / mean**2 - 1.0, 0.0), context


def computed_at(
    traffic: Any, hit_ratio: FloatArray, hit_tokens: FloatArray, quantiles: Sequence[float]
) -> list[FloatArray]:
    """Tokens to compute at each of the quantiles: requests that hit the cache come first."""
    t, hit = traffic, hit_ratio
    middle = t.input_tokens * np.exp(-(t.input_log_sd**2) / 2.0)
    if not np.any(hit > 0):
        return [np.maximum(middle * np.exp(normal_quantile(each) * t.input_log_sd), 1.0) for each in quantiles]
    least = _least(t)
    first, _ = _excess_moments(t)
    scale = (t.input_tokens - least) / np.maximum(first, 1e-9)
    found = []
    for quantile in quantiles:
        is_hit = quantile <= hit
        level = np.where(is_hit, quantile / np.maximum(hit, 1e-9), (quantile - hit) / np.maximum(1.0 - hit, 1e-9))
        whole = middle * np.exp(normal_quantile(np.where(hit > 0, level, quantile)) * t.input_log_sd)
        own = least - hit_tokens + scale * np.maximum(whole - least, 0.0)
        found.append(np.maximum(np.where(is_hit, own, whole), 1.0))
    return found


def _least(t: Any) -> FloatArray:
    return np.asarray(np.minimum(t.prefix_tokens + 1.0, t.input_tokens))


def _excess_moments(t: Any) -> tuple[FloatArray, FloatArray]:
    """E[(x - p - 1)+] and E[((x - p - 1)+)^2] of declared lengths x and prefixes of p tokens.

    Source: Black and Scholes' formula, and that of its square.
    """
    sd = np.maximum(t.input_log_sd, _LEAST_LOG_SD)
    mean, least = t.input_tokens, _least(t)
    far = np.log(mean / least) / sd + sd / 2.0
    above, at, below = _normal(far + sd), _normal(far), _normal(far - sd)
    first = mean * at - least * below
    second = mean**2 * np.exp(sd**2) * above - 2.0 * mean * least * at + least**2 * below
    return np.maximum(first, 0.0), np.maximum(second, first**2)


def _normal(z: FloatArray) -> FloatArray:
    """Standard normal distribution function, within 1e-7. Source: Abramowitz and Stegun, 26.2.17."""
    size = np.abs(z)
    t = 1.0 / (1.0 + 0.2316419 * size)
    terms = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    tail = np.exp(-(np.minimum(size, 37.0) ** 2) / 2.0) / np.sqrt(2.0 * np.pi) * terms
    return np.asarray(np.where(z > 0, 1.0 - tail, tail))


def normal_quantile(probability: FloatArray | float) -> FloatArray:
    """Standard normal quantile, within 0.005 between 0.01 and 0.99.

    Source: 4.91 (p^0.14 - (1 - p)^0.14), Joiner and Rosenblatt, JASA 66 (1971).
    """
    p = np.clip(probability, 1e-4, 1.0 - 1e-4)
    return np.asarray(4.91 * (p**0.14 - (1.0 - p) ** 0.14))
