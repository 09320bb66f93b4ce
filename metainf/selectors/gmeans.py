"""g-means: as many clusters as it takes until each looks normal along the line between its two halves.

Separate from ISAC, which only uses the centres, so that it can be tested on points with a known answer.
Source: Hamerly and Elkan, "Learning the k in k-means" (2003); as used in ISAC by Kadioglu et al. (ECAI 2010) and in
the re-implementation of Tornede et al. (as_on_a_meta_level), whose steps these are.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr
from sklearn.cluster import KMeans

from metainf.selectors.contract import FloatArray

__all__ = ["ANDERSON_DARLING_5_PERCENT", "anderson_darling", "dissolve_small", "g_means", "k_means", "nearest"]

IntArray = NDArray[np.intp]

ANDERSON_DARLING_5_PERCENT = 0.752
"""Critical value of the adjusted statistic at 5 %, mean and variance estimated.

Source: D'Agostino and Stephens, "Goodness-of-fit techniques" (1986), table 4.7.
"""


def g_means(points: FloatArray, *, smallest: int = 1, restarts: int = 5, random_state: int = 0) -> FloatArray:
    """Centres, shape (k, d), of the best of several runs by inertia.

    More clusters have less inertia, so of runs that stop at different numbers the largest tends to win: that is part
    of the published algorithm, and what a least size of clusters is for. In many dimensions two halves can nearly
    always be laid so that they do not look normal together; a cluster that can only be split into one under
    `smallest` members is therefore left whole, rather than split now and dissolved later (1 is the published rule).
    """
    runs = [_one_run(points, smallest, random_state + restart) for restart in range(restarts)]
    return min(runs, key=lambda centres: _inertia(points, centres))


def _one_run(points: FloatArray, smallest: int, seed: int) -> FloatArray:
    pending = [np.arange(len(points))]
    finished = 0
    while pending:
        members = pending.pop(0)
        halves = _split(points[members], seed) if len(members) > max(2, 2 * smallest - 1) else None
        if halves is None:
            finished += 1
        else:
            pending += [members[halves == side] for side in (0, 1)]
    return k_means(points, finished, seed)


def _split(points: FloatArray, seed: int) -> IntArray | None:
    """Half of each point where the points do not look normal, None where they do or cannot be split."""
    if not np.ptp(points, axis=0).any():
        return None
    halves = KMeans(n_clusters=2, n_init=5, random_state=seed).fit(points)
    between = halves.cluster_centers_[1] - halves.cluster_centers_[0]
    length = float(np.linalg.norm(between))
    if length == 0.0:
        return None
    along = points @ between / length
    if not along.std() > 0 or anderson_darling(along) <= ANDERSON_DARLING_5_PERCENT:
        return None
    return np.asarray(halves.labels_, dtype=np.intp)


def anderson_darling(values: FloatArray) -> float:
    """Adjusted Anderson-Darling statistic against a normal with the mean and variance of `values`, shape (n,).

    Source: D'Agostino and Stephens (1986), case 3: A2 (1 + 0.75 / n + 2.25 / n^2).
    """
    n = len(values)
    ordered = np.sort((values - values.mean()) / values.std(ddof=1))
    ranks = np.arange(1, n + 1)
    # log of the normal's distribution function and of its complement, without loss in the tails
    statistic = -n - float(((2 * ranks - 1) * (log_ndtr(ordered) + log_ndtr(-ordered[::-1]))).mean())
    return statistic * (1.0 + 0.75 / n + 2.25 / n**2)


def k_means(points: FloatArray, clusters: int, random_state: int = 0) -> FloatArray:
    """Centres of k-means with five starts, shape (k, d); at most as many as there are different points."""
    distinct = len(np.unique(points, axis=0)) if clusters > 1 else 1
    fitted = KMeans(n_clusters=min(clusters, distinct), n_init=5, random_state=random_state).fit(points)
    return np.asarray(fitted.cluster_centers_, dtype=np.float64)


def dissolve_small(points: FloatArray, centres: FloatArray, smallest: int) -> FloatArray:
    """Centres after every cluster under `smallest` members is dissolved, the smallest first.

    Its members go each to the nearest centre that is left, and the centres of those that got some are computed anew,
    until all are large enough or one is left.
    """
    owner, _ = nearest(points, centres)
    centres = centres.copy()
    left = np.ones(len(centres), dtype=bool)
    while left.sum() > 1:
        sizes = np.bincount(owner, minlength=len(centres))
        gone = int(np.argmin(np.where(left, sizes, len(points) + 1)))
        if sizes[gone] >= smallest:
            break
        left[gone] = False
        members = np.flatnonzero(owner == gone)
        if len(members):
            owner[members] = np.flatnonzero(left)[nearest(points[members], centres[left])[0]]
        for cluster in np.unique(owner[members]):
            centres[cluster] = points[owner == cluster].mean(axis=0)
    return centres[left]


def nearest(points: FloatArray, centres: FloatArray) -> tuple[IntArray, FloatArray]:
    """Nearest centre of each point and the distance to it, both of shape (n,)."""
    squared = (points**2).sum(axis=1)[:, None] - 2.0 * points @ centres.T + (centres**2).sum(axis=1)[None, :]
    owner = squared.argmin(axis=1)
    return owner, np.sqrt(np.maximum(squared[np.arange(len(points)), owner], 0.0))


def _inertia(points: FloatArray, centres: FloatArray) -> float:
    return float((nearest(points, centres)[1] ** 2).sum())
