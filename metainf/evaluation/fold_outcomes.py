"""One selector on one fold: fitted on the fold's train rows, asked about its test tasks, with the seconds of both.

Separate from the outcomes, which are of all folds of a split, and from `fits`, which keeps these: what is kept hangs on
this code, so there is no more of it here than that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metainf.selectors.contract import FloatArray, MethodTable, Selector, TaskTable, choose

if TYPE_CHECKING:
    from metainf.evaluation.splits import Fold

__all__ = ["Clock", "FoldOutcome", "SelectorFactory", "Trial", "checked_scores", "failed", "fold_outcome"]

IntArray = NDArray[np.intp]

SelectorFactory = Callable[[], Selector]
"""Makes a selector that is not fitted. One that has an `identity`, a text, says by it all that what it makes depends on
besides rows: equal identities are as good as one."""
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A selector, what it learns from and what it is asked about: folds are rows of these two."""

    name: str
    make: SelectorFactory
    lessons: MethodTable
    tasks: TaskTable


@dataclass(frozen=True, slots=True, eq=False)
class FoldOutcome:
    """What a selector said of the k test tasks of a fold.

    Attributes
    ----------
    chosen : array of shape (k,)
        Columns; -1 refuses.
    scores : array of shape (k, m)
    fit_s, decide_s : seconds
    failure : why there are neither choices nor scores, empty where there are
    """

    chosen: IntArray
    scores: FloatArray
    fit_s: float = 0.0
    decide_s: float = 0.0
    failure: str = ""

    @property
    def seconds(self) -> float:
        """What it took, fitting and choosing."""
        return self.fit_s + self.decide_s


def fold_outcome(trial: Trial, fold: "Fold", clock: Clock) -> FoldOutcome:
    """Fit a new selector and let it choose.

    One that cannot be fitted on these rows says so in the outcome: one of many must not end a report of hours. Nothing
    but our own errors and numbers that do not work out is taken for that.
    """
    train, test = trial.lessons.rows(fold.train), trial.tasks.rows(fold.test)
    selector, fit_s, start = trial.make(), 0.0, clock()
    try:
        fitted = selector.fit(train)
        fit_s, start = clock() - start, clock()
        scores = checked_scores(trial.name, fitted.scores(test), test)
        chosen = choose(test, scores)
        return FoldOutcome(chosen, scores, fit_s, clock() - start)
    except (ValueError, np.linalg.LinAlgError) as error:
        return failed(str(error) or type(error).__name__, fit_s + clock() - start)


def failed(failure: str, seconds: float) -> FoldOutcome:
    """The outcome of a fold that came to nothing, after so long."""
    return FoldOutcome(np.zeros(0, dtype=np.intp), np.zeros((0, 0)), seconds, 0.0, failure)


def checked_scores(name: str, scores: FloatArray, tasks: TaskTable) -> FloatArray:
    """The scores, where they are what the contract says.

    Raises
    ------
    ValueError
        They are not.
    """
    if scores.shape != tasks.feasible.shape or np.isnan(scores).any() or np.isfinite(scores[~tasks.feasible]).any():
        raise ValueError(f"{name}: scores must be {tasks.feasible.shape}, without NaN, and -inf where infeasible")
    return scores
