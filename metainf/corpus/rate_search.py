"""The highest rate at which every promise holds: a bracket by short runs, then the place in it by long ones.

Separate from the simulator and from tasks, so that the search can be held against functions whose root is known.

Long runs cost up to eight times what short ones do, and are needed only where the promise is just kept: far from it a
short one says on which side a rate lies.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["RATE_TOLERANCE", "Bracket", "bracketed_rate", "refined_rate"]

RATE_TOLERANCE = 0.01
"""Relative, of a refined rate: half of the smallest difference between methods that counts."""

_WIDTH = (RATE_TOLERANCE, 0.08)  # least and most relative width at which long runs take over
_LEAST_SHARE = 1e-2
"""Of the capacity: a promise that holds only below this load holds at none.

A task's load is a fifth of what one replica is predicted to carry, or more: who could use less than a hundredth of each
would need twenty replicas and more of what one was meant for.
"""
_FIRST_SHARE = 0.6  # of the capacity, without a similar method
_FALL = 4.0  # least part of a rate, or of what the capacity leaves above it, that the next guess keeps
_ODDS_SLOPE = (0.1, 1.0)  # of margins over log-odds: a queue's rise by 1 near its capacity and by less below
_MOST_STEP = 0.25  # of the logarithm of the rate, between long runs
_MOST_LONG_RUNS = 3
_LEAST_SLOPE = 0.2  # latency that rises less with the load has no rate at which it passes anything

Margin = Callable[[float], float]
"""log(latency / bound) of the worst promise at a rate: rises with it, and at or below 0 all promises hold."""


@dataclass(frozen=True, slots=True)
class Bracket:
    """Promises hold at `low` and break at `high`; both are 0 where they hold at no load that was tried."""

    low: float
    low_margin: float
    high: float
    high_margin: float
    capacity: float

    @property
    def slope(self) -> float:
        """Rise of the margin with the logarithm of the rate."""
        if not (math.isfinite(self.low_margin) and math.isfinite(self.high_margin)):
            return math.inf
        return max((self.high_margin - self.low_margin) / math.log(self.high / self.low), _LEAST_SLOPE)

    @property
    def rate(self) -> float:
        """Where the margin passes 0, on the chord over log-odds."""
        if not math.isfinite(self.slope):
            return self.low
        return self._between(-self.low_margin / (self.high_margin - self.low_margin))

    @property
    def middle(self) -> float:
        """Halfway between the ends by log-odds."""
        return self._between(0.5)

    def _between(self, share: float) -> float:
        low, high = _log_odds(self.low / self.capacity), _log_odds(self.high / self.capacity)
        return self.capacity * _of_log_odds(low + share * (high - low))


def bracketed_rate(margin: Margin, capacity: float, *, near: Bracket | None = None) -> Bracket:
    """A bracket around the rate up to `capacity` at which `margin` passes 0, so narrow that its chord says where.

    Rates are tried by the log-odds of the utilization u: a queue's latency rises as u / (1 - u), so that margins are
    nearly straight over it where they are decided.

    Parameters
    ----------
    margin : function of a rate
        Never asked at the capacity or above, where latency is infinite.
    near : Bracket, optional
        Of a similar method: where to look first, and how steeply margins rise there.
    """
    low, low_margin = 0.0, -math.inf
    high, high_margin = capacity, math.inf
    probes = probes_within = 0
    while high > max(low * (1.0 + _width(high, capacity)), capacity * _LEAST_SHARE):
        so_far = Bracket(low, low_margin, high, high_margin, capacity)
        is_within = low > 0.0 and high < capacity
        at = _within(so_far, probes_within) if is_within else _outside(so_far, near, probes)
        found = margin(at)
        probes, probes_within = probes + 1, probes_within + is_within
        if found <= 0.0:
            low, low_margin = at, found
        else:
            high, high_margin = at, found
    return Bracket(low, low_margin, high, high_margin, capacity) if low > 0.0 else Bracket(0.0, 0.0, 0.0, 0.0, capacity)


def _width(rate: float, capacity: float) -> float:
    """Relative width below a rate within which the chord's root errs by no more than half of a tolerance.

    Of log(1 + k u / (1 - u)) over log-odds a chord of width w = (1 - u) d(log-odds) errs by w^2 / 8 (1 - u) at most.
    """
    least, most = _WIDTH
    return min(max(math.sqrt(4.0 * RATE_TOLERANCE * (1.0 - rate / capacity)), least), most)


def _outside(so_far: Bracket, near: Bracket | None, probes: int) -> float:
    """The next rate where one side is not known: a little beyond where margins should pass 0.

    Margins bend, so that steps by one slope would creep towards that from one side: each goes twice as far.
    """
    low, high, capacity = so_far.low, so_far.high, so_far.capacity
    if low == 0.0 and high == capacity:
        below = math.inf if near is None else near.rate * (1.0 - _width(min(near.rate, capacity), capacity) / 3.0)
        return below if below < capacity else _FIRST_SHARE * capacity
    at, margin = (low, so_far.low_margin) if low > 0.0 else (high, so_far.high_margin)
    if math.isinf(margin):
        return high / _FALL if margin > 0.0 else capacity / (1.0 + RATE_TOLERANCE)
    step = -margin / _odds_slope(near, capacity) * 2.0 ** (probes - 1)
    expected = capacity * _of_log_odds(_log_odds(at / capacity) + step)
    if low > 0.0:
        return min(_beside(expected, 1.0, capacity), capacity - (capacity - low) / _FALL)
    return max(_beside(expected, -1.0, capacity), high / _FALL)


def _within(so_far: Bracket, probes: int) -> float:
    """The next rate in a bracket: beside where the chord passes 0, on the side that would close it.

    Each third goes to the middle: whatever shape margins have, the bracket shrinks.
    """
    is_known = math.isfinite(so_far.low_margin) and math.isfinite(so_far.high_margin)
    if probes % 3 == 2 or not is_known:
        return so_far.middle
    expected = so_far.rate
    at = _beside(expected, 1.0 if expected <= so_far.middle else -1.0, so_far.capacity)
    return at if so_far.low < at < so_far.high else so_far.middle


def _odds_slope(near: Bracket | None, capacity: float) -> float:
    """How margins rise with the log-odds, by a similar method's at its rate."""
    least, most = _ODDS_SLOPE
    if near is None or math.isinf(near.slope):
        return most
    return min(max(near.slope * (1.0 - near.rate / capacity), least), most)


def _beside(rate: float, side: float, capacity: float) -> float:
    """Off a rate by a little less than half of the width that a bracket around it may have, within the capacity."""
    return min(rate * (1.0 + side * 0.45 * _width(rate, capacity)), (rate + capacity) / 2.0)


def _log_odds(share: float) -> float:
    return math.log(share / (1.0 - share))


def _of_log_odds(log_odds: float) -> float:
    return 1.0 / (1.0 + math.exp(min(-log_odds, 700.0)))  # beyond it exp overflows


def refined_rate(margin: Margin, bracket: Bracket, capacity: float) -> float:
    """The rate at which long runs' `margin` passes 0, near the bracket of short ones, below `capacity`.

    Newton's steps on the logarithm of the rate with the chord's slope, first that of the bracket.
    """
    rate, slope = min(bracket.rate, capacity), bracket.slope
    before: tuple[float, float] | None = None
    for _ in range(_MOST_LONG_RUNS):
        found = margin(rate)
        if before is not None and rate != before[0]:
            chord = (found - before[1]) / math.log(rate / before[0])
            slope = max(chord, _LEAST_SLOPE) if math.isfinite(chord) else slope
        step = 0.0 if math.isinf(slope) else -found / slope
        if math.isinf(slope) and found > 0.0:
            step = -2.0 * RATE_TOLERANCE  # the capacity itself was the bracket's upper end
        before, rate = (rate, found), min(rate * math.exp(min(max(step, -_MOST_STEP), _MOST_STEP)), capacity)
        if abs(math.log(rate / before[0])) <= RATE_TOLERANCE:
            break
    return float(rate)
