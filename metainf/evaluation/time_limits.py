"""Until when something new may be begun, where a machine is there for a while only.

Separate from those who ask (`fits`, the command), so that all of an evaluation ends by one clock.
"""

from dataclasses import dataclass

from metainf.errors import MetaInfError

__all__ = ["OutOfTimeError", "TimeLimit"]

_MOST_ASKED = 0.5  # of all the time: what is thought to take longer may still begin while so much is left


class OutOfTimeError(MetaInfError):
    """What comes next would end too late; all before it is kept, so that the same command goes on there."""


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """So many seconds, which are over at `until_s` of the clock that is asked."""

    until_s: float
    seconds: float

    def check(self, now_s: float, pace_s: float = 0.0) -> None:
        """Let something begin that takes `pace_s`, 0 where nobody knows.

        What would never fit into all the time, by what is known, begins in the first half of it: it would otherwise be
        put off for ever.

        Raises
        ------
        OutOfTimeError
            It would end later.
        """
        if now_s + min(pace_s, _MOST_ASKED * self.seconds) >= self.until_s:
            raise OutOfTimeError("the time is up: the same command goes on")
