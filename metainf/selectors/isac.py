"""ISAC: tasks in clusters, and for each cluster the method that is best on average there.

Separate, as each selector is; the clusters come from `gmeans`. Source: Kadioglu, Malitsky, Sellmann, Tierney (ECAI
2010). That paper configures one solver per cluster by a genetic algorithm; as a selector the best method of the
portfolio takes that place, as in the re-implementation of Tornede et al. Log gains take the place of raw performance,
whose mean over tasks of different scale would be that of the largest.
"""

import numpy as np

from metainf.selectors.base import BaseSelector
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable
from metainf.selectors.gmeans import dissolve_small, g_means, k_means, nearest
from metainf.selectors.scaling import Scaler, Spread
from metainf.selectors.single_best import mean_scores
from metainf.selectors.targets import log_gains, mean_or_nan

__all__ = ["Isac"]


class Isac(BaseSelector):
    """Mean log gains of the nearest cluster; far from all of them, single best.

    Parameters
    ----------
    n_clusters : int or None
        A fixed number of clusters by k-means, as MetaOOD has it (5, and no guard); None: g-means.
    smallest_cluster : int
        Clusters under this size are dissolved (kappa), and none is split that is under twice this; 1 keeps all.
    restarts : int
        Runs of g-means, of which that with the least inertia is kept.
    guard : bool
        Whether a task that is farther from its centre than mean + 2 standard deviations of the training tasks'
        distances gets the single best.
    """

    def __init__(
        self,
        *,
        n_clusters: int | None = None,
        smallest_cluster: int = 20,
        restarts: int = 5,
        guard: bool = True,
        random_state: int = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.smallest_cluster = smallest_cluster
        self.restarts = restarts
        self.guard = guard
        self.random_state = random_state

    def _fit(self, table: MethodTable) -> None:
        self.scaler_ = Scaler(Spread.LARGEST).fit(table.tasks.features)
        points = self.scaler_.transform(table.tasks.features)
        if self.n_clusters is None:
            centres = g_means(
                points, smallest=self.smallest_cluster, restarts=self.restarts, random_state=self.random_state
            )
            centres = dissolve_small(points, centres, self.smallest_cluster)
        else:
            centres = k_means(points, self.n_clusters, self.random_state)
        owner, distance = nearest(points, centres)
        used = np.unique(owner)
        gains = log_gains(table)
        self.centres_ = centres[used]
        self.cluster_gains_ = np.array([mean_or_nan(gains[owner == cluster], axis=0) for cluster in used])
        self.single_best_ = mean_scores(table)
        self.farthest_ = float(distance.mean() + 2.0 * distance.std())

    def _scores(self, tasks: TaskTable) -> FloatArray:
        owner, distance = nearest(self.scaler_.transform(tasks.features), self.centres_)
        scores = self.cluster_gains_[owner]
        if not self.guard:
            return scores
        # A task of the training set that is the only one of its kind is at no distance; rounding must not tip it
        far = distance > self.farthest_ + 1e-6
        return np.where(far[:, None], self.single_best_, scores)
