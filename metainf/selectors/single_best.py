"""Single best (SBS): the one method that is best on average over the training tasks, whatever the task.

Separate, as each selector is. It is the zero of the closed gap: what needs no features at all. Beside it what needs
none either, and sees of each task what can run there: the best on average of that, which leak checks compare with.
"""

import numpy as np

from metainf.selectors.base import BaseSelector
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable
from metainf.selectors.targets import LOST, log_gains, mean_or_nan

__all__ = ["BestOnAverage", "SingleBest", "mean_scores"]


class SingleBest(BaseSelector):
    """Methods by mean log gain over the training tasks, those that are widely feasible first.

    Parameters
    ----------
    widely : float
        Share of the training tasks on which a method has to be feasible to be the single best. A task on which it
        cannot run counts as a tenth of the default.
    """

    def __init__(self, *, widely: float = 0.95) -> None:
        self.widely = widely

    def _fit(self, table: MethodTable) -> None:
        self.scores_ = mean_scores(table, self.widely)
        self.best_ = table.tasks.methods[int(np.nanargmax(self.scores_))]

    def _scores(self, tasks: TaskTable) -> FloatArray:
        return np.broadcast_to(self.scores_, tasks.feasible.shape)


class BestOnAverage(BaseSelector):
    """Methods by mean log gain over the training tasks on which they ran: of what a task can run, the best of these."""

    def _fit(self, table: MethodTable) -> None:
        self.scores_ = mean_or_nan(log_gains(table), axis=0)

    def _scores(self, tasks: TaskTable) -> FloatArray:
        return np.broadcast_to(self.scores_, tasks.feasible.shape)


def mean_scores(table: MethodTable, widely: float = 0.95) -> FloatArray:
    """Score of each method, shape (m,): above 0 and by mean log gain where widely feasible, below 0 elsewhere.

    NaN where the method never ran. Where no method is widely feasible, those feasible most often count as such.
    """
    gains = log_gains(table)
    share = table.tasks.feasible.mean(axis=0)
    wide = share >= min(widely, share.max())
    counted = mean_or_nan(np.where(table.tasks.feasible, gains, LOST), axis=0)
    means = np.where(wide, counted, mean_or_nan(gains, axis=0))
    means = np.where(np.isfinite(gains).any(axis=0), means, np.nan)
    low, high = np.nanmin(means), np.nanmax(means)
    return np.asarray(np.where(wide, means - low + 1.0, means - high - 1.0))
