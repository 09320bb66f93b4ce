"""How selectors come to their outcomes on folds: taken from where these are kept, or fitted while there is time.

Separate from the fitting itself (`fold_outcomes`) and from the files (`kept_files`). An evaluation takes longer than a
machine may be there, so each fitted fold is kept by itself, under a digest of all that it depends on: the selector with
its parameters and seed, the code behind it, what is learnt from with what is broken there, the tasks that are asked
about, and the fold's rows of both. Whatever of that changes is fitted anew; nothing else is. Seconds are kept with it,
so that a report says what was spent in all, whenever that was.
"""

from collections.abc import Callable, Sequence

import numpy as np

from metainf.evaluation.fold_outcomes import Clock, FoldOutcome, Trial, checked_scores, failed, fold_outcome
from metainf.evaluation.kept_files import Kept, KeptFiles, content_digest
from metainf.evaluation.splits import Fold
from metainf.evaluation.time_limits import TimeLimit
from metainf.selectors.contract import FloatArray, TaskTable, choose

__all__ = ["Fits", "Paces"]

Paces = dict[tuple[str, int], float]
"""What is worked on, and how many tasks there are to learn from -> the most seconds that one fold has taken."""

_SCORES, _NUMBERS = "scores", "numbers"
_NOTHING = np.zeros(0)


class Fits:
    """Outcomes of folds for one part of a report.

    Parameters
    ----------
    files : KeptFiles or None
        Where outcomes are kept; None keeps nothing.
    limit : TimeLimit or None
        After which nothing is fitted.
    say : function
        Told what is taken and what cannot be.
    paces : dict or None
        What folds have taken; shared with other parts, it says beforehand what theirs will take.

    Attributes
    ----------
    spent_s : seconds behind all that was given, whenever they were spent
    taken_s : of these what was spent earlier
    """

    def __init__(
        self,
        files: KeptFiles | None = None,
        limit: TimeLimit | None = None,
        say: Callable[[str], None] = lambda _: None,
        paces: Paces | None = None,
    ) -> None:
        self.files = files
        self.limit = limit
        self.say = say
        self.paces: Paces = {} if paces is None else paces
        self.spent_s = 0.0
        self.taken_s = 0.0

    def about(self, what: str) -> "Fits":
        """The same for another part, which says what it is and has seconds of its own."""
        return Fits(self.files, self.limit, lambda line: self.say(f"{what}: {line}"), self.paces)

    def keys(self, trial: Trial, folds: Sequence[Fold], *more: object) -> list[str | None]:
        """Under what each fold is kept; None where nothing is, or where nobody can say what the trial's maker makes.

        `more` is what the result depends on besides.
        """
        identity = getattr(trial.make, "identity", None)
        if self.files is None or not isinstance(identity, str):
            return [None for _ in folds]
        asked = None if trial.tasks is trial.lessons.tasks else trial.tasks  # else they are among the lessons
        about = content_digest(identity, trial.lessons, asked, *more)
        return [content_digest(about, fold.train, fold.test) for fold in folds]

    def outcomes(self, trial: Trial, folds: Sequence[Fold], clock: Clock) -> list[FoldOutcome]:
        """An outcome for each fold, in their order; none after one that failed.

        Raises
        ------
        OutOfTimeError
            One has to be fitted, and would end too late. Those that were fitted are kept.
        """
        keys = self.keys(trial, folds)
        kept = [self._kept(key, trial.tasks, fold) for key, fold in zip(keys, folds, strict=True)]
        self._tell(trial.name, kept)
        pace = trial.name, len(trial.lessons)
        for known in kept:
            self._learn(pace, 0.0 if known is None else known.seconds)
        found: list[FoldOutcome] = []
        for fold, key, known in zip(folds, keys, kept, strict=True):
            if known is None:
                self._begin(pace, clock)
                each = fold_outcome(trial, fold, clock)
                self._keep(key, each)
                self._learn(pace, each.seconds)
            else:
                each = known
            self._count(each.seconds, taken=known is not None)
            found.append(each)
            if each.failure:
                break
        return found

    def numbers(
        self, what: str, key: str | None, shape: tuple[int, ...], compute: Callable[[], FloatArray], clock: Clock
    ) -> FloatArray:
        """What `compute` gives, an array of this shape: taken where it is kept under the key, else computed and kept.

        Raises
        ------
        OutOfTimeError
            It has to be computed, and would end too late by what others of its name have taken.
        """
        pace = what, 0
        known = self._kept_numbers(key, what, shape)
        if known is None:
            self._begin(pace, clock)
            start = clock()
            values = compute()
            seconds = float(clock() - start)
            if self.files is not None and key is not None:
                self.files.put(key, Kept({"seconds": seconds}, {_NUMBERS: values}))
        else:
            values, seconds = known
        self._learn(pace, seconds)
        self._count(seconds, taken=known is not None)
        return values

    def _tell(self, name: str, kept: Sequence[FoldOutcome | None]) -> None:
        taken = sum(each is not None for each in kept)
        if taken and self.files is not None:
            self.say(f"{name}{': ' if name else ''}{taken} of {len(kept)} folds taken from {self.files.folder}")

    def _kept(self, key: str | None, tasks: TaskTable, fold: Fold) -> FoldOutcome | None:
        """The fold's outcome where it is kept, and is one of these tasks."""
        if self.files is None or key is None:
            return None
        found = self.files.get(key, self.say)
        if found is None:
            return None
        try:
            return _outcome_of(found, tasks.rows(fold.test))
        except (KeyError, TypeError, ValueError) as error:
            self.say(f"{self.files.path(key)} holds no outcome of its fold, which is fitted anew: {error}")
            return None

    def _kept_numbers(self, key: str | None, what: str, shape: tuple[int, ...]) -> tuple[FloatArray, float] | None:
        """The numbers where they are kept, and the seconds that they took."""
        found = None if self.files is None or key is None else self.files.get(key, self.say)
        if found is None:
            return None
        values, seconds = found.arrays.get(_NUMBERS, _NOTHING), found.facts.get("seconds")
        if values.shape != shape or values.dtype != np.float64 or not isinstance(seconds, float):
            self.say(f"{what}: other numbers are kept as {key}, so they are made anew")
            return None
        return values, seconds

    def _keep(self, key: str | None, found: FoldOutcome) -> None:
        if self.files is not None and key is not None:
            facts = {"fit_s": float(found.fit_s), "decide_s": float(found.decide_s), "failure": found.failure}
            self.files.put(key, Kept(facts, {_SCORES: found.scores}))

    def _begin(self, pace: tuple[str, int], clock: Clock) -> None:
        if self.limit is not None:
            self.limit.check(clock(), self.paces.get(pace, 0.0))

    def _learn(self, pace: tuple[str, int], seconds: float) -> None:
        self.paces[pace] = max(self.paces.get(pace, 0.0), seconds)

    def _count(self, seconds: float, *, taken: bool) -> None:
        self.spent_s += seconds
        if taken:
            self.taken_s += seconds


def _outcome_of(kept: Kept, tasks: TaskTable) -> FoldOutcome:
    """As `Fits` kept it, of these tasks; KeyError, TypeError or ValueError where it is not that."""
    fit_s, decide_s, failure = (kept.facts[name] for name in ("fit_s", "decide_s", "failure"))
    if not (isinstance(fit_s, float) and isinstance(decide_s, float) and isinstance(failure, str)):
        raise TypeError("its facts are of other types")
    if failure:
        return failed(failure, fit_s)
    scores = kept.arrays[_SCORES]
    if scores.dtype != np.float64:
        raise TypeError(f"its scores are {scores.dtype}")
    checked = checked_scores("kept", scores, tasks)
    return FoldOutcome(choose(tasks, checked), checked, fit_s, decide_s)
