"""Whether to leave what runs for something better.

Separate from `selection`, which does not know what runs: hysteresis is a question of its own, asked by the operator
and by `plan` alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from metainf.selection import NoSelection, Scored, Selection

__all__ = ["Keep", "KeepReason", "Move", "MoveReason", "Verdict", "compare", "starts_new_pods"]

# A switch pays for both sides while the new one loads; a gain that does not earn that back within this time is none.
# Six hours: traffic and prices are re-declared more often than that in practice, so a longer horizon would count on
# a gain that is gone. Our own choice, not measured.
SWITCH_HORIZON = timedelta(hours=6)


class KeepReason(StrEnum):
    """Why what runs stays."""

    BEST = "Best"
    GAIN_TOO_SMALL = "GainTooSmall"
    COOLING_DOWN = "CoolingDown"
    NO_ROOM_BESIDE = "NoRoomBeside"
    NOTHING_BETTER_FITS = "NothingBetterFits"


class MoveReason(StrEnum):
    """Why what runs is left."""

    NOTHING_RUNS = "NothingRuns"
    LIMIT_BROKEN = "LimitBroken"
    GONE = "Gone"
    SCALED = "Scaled"
    PINNED = "Pinned"
    ASKED = "Asked"
    BETTER = "Better"


@dataclass(frozen=True, slots=True)
class Keep:
    """Stay. `gain_ratio` is what the best other candidate would gain, 0 to 1."""

    reason: KeepReason
    gain_ratio: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """Go to `target`."""

    reason: MoveReason
    target: Scored
    gain_ratio: float = 0.0


Verdict = Keep | Move


def compare(
    outcome: Selection | NoSelection,
    *,
    runs: bool,
    pinned: bool,
    replicas: range,
    minimum_gain_ratio: float,
    cooldown: timedelta,
    last_switch: datetime | None,
    now: datetime,
    startup: timedelta,
    fits_beside: Callable[[Scored], bool],
) -> Verdict:
    """Keep what runs, or move to what was chosen.

    A broken limit, a candidate that is no more, a pin, or a number of replicas outside of `replicas` moves whatever
    gain and cooldown say; more or fewer replicas of the same candidate go before a switch that gains little.
    Otherwise the gain must exceed `minimum_gain_ratio` plus the cost of the switch: the new side's price for `startup`,
    spread over SWITCH_HORIZON. And both sides must fit for that time (`fits_beside`, asked of what was chosen): to stop
    what serves well, for as long as a model takes to load, is no gain. Where they do not, another number of replicas of
    what runs is taken if that alone gains enough.
    """
    if isinstance(outcome, NoSelection):
        return Keep(KeepReason.NOTHING_BETTER_FITS)
    current, chosen = outcome.current, outcome.chosen
    if not runs:
        return Move(MoveReason.NOTHING_RUNS, chosen)
    if current is None:
        return Move(MoveReason.GONE, chosen)
    if current.candidate.name == chosen.candidate.name:
        return Keep(KeepReason.BEST)
    if pinned:
        return Move(MoveReason.PINNED, chosen)
    resized = outcome.resized
    if current.broken is not None or current.candidate.replicas not in replicas:
        reason = MoveReason.LIMIT_BROKEN if current.broken is not None else MoveReason.SCALED
        if resized is not None and gain_ratio(resized, chosen) < minimum_gain_ratio:
            return Move(reason, resized)
        return Move(reason, chosen, gain_ratio(current, chosen))
    gain = gain_ratio(current, chosen)
    needed = minimum_gain_ratio + _switch_cost_ratio(current, chosen, startup)
    if gain < needed or (gain == 0 and current.barred is not None):  # what was chosen is best of what could start now
        return Keep(KeepReason.GAIN_TOO_SMALL, gain)
    if last_switch is not None and now - last_switch < cooldown:
        return Keep(KeepReason.COOLING_DOWN, gain)
    if not starts_new_pods(current, chosen) or fits_beside(chosen):
        return Move(MoveReason.BETTER, chosen, gain)
    if resized is not None and (in_place := gain_ratio(current, resized)) > 0 and in_place >= minimum_gain_ratio:
        return Move(MoveReason.BETTER, resized, in_place)
    return Keep(KeepReason.NO_ROOM_BESIDE, gain)


def starts_new_pods(current: Scored, other: Scored) -> bool:
    """Whether going from one to the other starts other pods, and not only more or fewer of the same."""
    return current.candidate.option.name(1) != other.candidate.option.name(1)


def gain_ratio(current: Scored, better: Scored) -> float:
    """By how much the objective improves, as a share of the larger of the two; 0 to 1."""
    now, then = current.objective_value, better.objective_value
    scale = max(abs(now), abs(then))
    return 0.0 if scale == 0 else max(0.0, (now - then) / scale)


def _switch_cost_ratio(current: Scored, better: Scored, startup: timedelta) -> float:
    if not starts_new_pods(current, better):
        return 0.0  # nothing runs twice
    running = float(current.candidate.cost_per_hour)
    if running <= 0:
        return 0.0
    return float(better.candidate.cost_per_hour) / running * (startup / SWITCH_HORIZON)
