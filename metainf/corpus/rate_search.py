"""The highest rate at which every promise holds: a bracket that closes on where the worst margin passes zero.

Separate from the simulator and from tasks, so that the search can be held against functions whose root is known.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["RATE_TOLERANCE", "RateFound", "highest_rate"]

RATE_TOLERANCE = 0.01
"""Width of the last bracket, relative: half of the smallest difference between methods that counts."""

_LEAST_SHARE = 1e-3  # of the capacity: a promise that holds only below this load holds at none
_FALL = 4.0  # between guesses while nothing is known to hold


@dataclass(frozen=True, slots=True)
class RateFound:
    """`rate` is 0 where the promises hold at no load that was tried; `probes` counts the loads tried."""

    rate: float
    probes: int


def highest_rate(margin: Callable[[float], float], capacity: float, *, guess: float | None = None) -> RateFound:
    """The rate up to `capacity` at which `margin`, rising with the rate, passes 0.

    Parameters
    ----------
    margin : function of a rate
        log(latency / bound) of the worst promise; below or at 0 all hold. Never asked at the capacity or above, where
        latency is infinite.
    guess : float, optional
        Where to look first, such as the rate of a similar method.
    """
    low, low_margin = 0.0, -math.inf
    high, high_margin = capacity, math.inf
    probes = 0
    while high > max(low, capacity * _LEAST_SHARE) * (1.0 + RATE_TOLERANCE):
        at = _next(low, low_margin, high, high_margin, guess if probes < 2 else None)
        found = margin(at)
        probes += 1
        if found <= 0.0:
            low, low_margin = at, found
        else:
            high, high_margin = at, found
    return RateFound(low, probes)


def _next(low: float, low_margin: float, high: float, high_margin: float, guess: float | None) -> float:
    if low == 0.0:
        first = high * 0.6 if math.isinf(high_margin) else high / _FALL
        return guess * (1.0 - RATE_TOLERANCE / 3.0) if guess is not None and guess < high else first
    ratio = math.log(high / low)
    if guess is not None and low < guess * (1.0 + RATE_TOLERANCE / 2.0) < high:
        return guess * (1.0 + RATE_TOLERANCE / 2.0)
    share = 0.5
    if math.isfinite(low_margin) and math.isfinite(high_margin):
        # Halfway between halving and the chord: latency bends so sharply that the chord alone creeps up from one side.
        share = 0.5 * (share - low_margin / (high_margin - low_margin))
    return low * math.exp(ratio * share)
