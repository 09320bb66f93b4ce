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

_BRACKET = 0.04  # relative width at which long runs take over
_LEAST_SHARE = 1e-3  # of the capacity: a promise that holds only below this load holds at none
_FALL = 4.0  # between guesses while nothing is known to hold
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

    @property
    def slope(self) -> float:
        """Rise of the margin with the logarithm of the rate."""
        if not (math.isfinite(self.low_margin) and math.isfinite(self.high_margin)):
            return math.inf
        return max((self.high_margin - self.low_margin) / math.log(self.high / self.low), _LEAST_SLOPE)

    @property
    def rate(self) -> float:
        """Where the margin passes 0, on the chord."""
        return self.low * math.exp(-self.low_margin / self.slope) if math.isfinite(self.slope) else self.low


def bracketed_rate(margin: Margin, capacity: float, *, guess: float | None = None) -> Bracket:
    """A bracket around the rate up to `capacity` at which `margin` passes 0.

    Parameters
    ----------
    margin : function of a rate
        Never asked at the capacity or above, where latency is infinite.
    guess : float, optional
        Where to look first, such as the rate of a similar method.
    """
    low, low_margin = 0.0, -math.inf
    high, high_margin = capacity, math.inf
    probes = 0
    while high > max(low, capacity * _LEAST_SHARE) * (1.0 + (_BRACKET if high < capacity else RATE_TOLERANCE)):
        at = _next(Bracket(low, low_margin, high, high_margin), guess if probes < 2 else None)
        found = margin(at)
        probes += 1
        if found <= 0.0:
            low, low_margin = at, found
        else:
            high, high_margin = at, found
    return Bracket(low, low_margin, high, high_margin) if low > 0.0 else Bracket(0.0, 0.0, 0.0, 0.0)


def _next(so_far: Bracket, guess: float | None) -> float:
    """The next rate to try: around the guess first, then halfway between the middle and the chord."""
    low, high = so_far.low, so_far.high
    if low == 0.0:
        below = math.inf if guess is None else guess * (1.0 - _BRACKET / 3.0)
        first = high * 0.6 if math.isinf(so_far.high_margin) else high / _FALL
        return below if below < high else first
    above = 0.0 if guess is None else guess * (1.0 + _BRACKET / 2.0)
    if low < above < high:
        return above
    share = 0.5
    if math.isfinite(so_far.low_margin) and math.isfinite(so_far.high_margin):
        # Latency bends so sharply that the chord alone creeps up from one side.
        share = 0.5 * (share - so_far.low_margin / (so_far.high_margin - so_far.low_margin))
    return float(low * (high / low) ** share)


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
