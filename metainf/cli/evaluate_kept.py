"""What of `metainf evaluate` takes long besides fitting selectors: kept beside these, and begun while there is time.

Separate from the parts themselves (`evaluate_predictors`), of which each says what it depends on and how it is written.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from metainf.evaluation.kept_files import Kept, KeptFiles
from metainf.evaluation.time_limits import TimeLimit

__all__ = ["Keeping"]

T = TypeVar("T")


class Keeping:
    """Values in files, each with the seconds that it took.

    Attributes
    ----------
    spent_s : seconds behind all values that were given, whenever they were spent
    """

    def __init__(self, files: KeptFiles, limit: TimeLimit | None, say: Callable[[str], None]) -> None:
        self.files = files
        self.limit = limit
        self.say = say
        self.spent_s = 0.0
        self._paces: dict[str, float] = {}

    def begin(self, what: str) -> None:
        """Let something begin that takes about as long as the last of its name.

        Raises
        ------
        OutOfTimeError
            It would end too late.
        """
        if self.limit is not None:
            self.limit.check(time.perf_counter(), self._paces.get(what, 0.0))

    def value(
        self,
        what: str,
        key: str,
        make: Callable[[], T],
        facts_of: Callable[[T], Mapping[str, Any]],
        value_of: Callable[[Mapping[str, Any]], T],
    ) -> T:
        """What is kept under the key, or else is made and kept.

        Parameters
        ----------
        facts_of, value_of : functions
            To what JSON has and back; the latter raises KeyError, TypeError or ValueError at anything else.

        Raises
        ------
        OutOfTimeError
            It has to be made, and would end too late.
        """
        found = self._kept(key, value_of)
        if found is None:
            self.begin(what)
            started = time.perf_counter()
            value = make()
            seconds = time.perf_counter() - started
            self.files.put(key, Kept({"seconds": seconds, "value": dict(facts_of(value))}))
        else:
            value, seconds = found
            self.say(f"{what}: taken from {self.files.folder}")
        self._paces[what] = seconds
        self.spent_s += seconds
        return value

    def _kept(self, key: str, value_of: Callable[[Mapping[str, Any]], T]) -> tuple[T, float] | None:
        kept = self.files.get(key, self.say)
        if kept is None:
            return None
        try:
            return value_of(kept.facts["value"]), float(kept.facts["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            self.say(f"{self.files.path(key)} holds something else, which is made anew: {error}")
            return None
