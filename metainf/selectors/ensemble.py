"""MetaInf: the mean opinion of a regression, pairwise duels and a ranking, which keeps to the default when unsure.

Separate from its parts, each of which is a selector by itself, and from `abstention`, which says when it is unsure.
Ensembles of selectors beat each of their own (Tornede et al., Machine Learning 2023); z-scores put the parts' units on
one scale.
"""

import numpy as np

from metainf.selectors.abstention import fold_of_groups, lower_offsets
from metainf.selectors.base import BaseSelector, masked
from metainf.selectors.contract import BoolArray, FloatArray, MethodTable, TaskTable, choose
from metainf.selectors.joint_regression import JointRegression
from metainf.selectors.pairwise_boosting import PairwiseBoosting
from metainf.selectors.ranking_boosting import RankingBoosting
from metainf.selectors.targets import log_gains

__all__ = ["MetaInf", "z_scores"]


class MetaInf(BaseSelector):
    """Mean of the z-scores of its three parts; the default where the chosen method's gain is not sure to be one.

    Parameters
    ----------
    trees, leaves, learning_rate, smallest_leaf
        Of the regression and of the ranking.
    pair_trees, pair_leaves, pair_learning_rate
        Of each pair's booster.
    residual : bool
        Whether the regression learns what to add to the analytical gain.
    confidence : float or None
        How sure a gain has to be: the lower bound of the chosen method's gain, at this one-sided confidence on models
        and accelerators held out within the training tasks, has to be above 0. None never abstains. Source of 0.9:
        the default of `policy.confidence`.
    folds : int
        Of models and of accelerators; each fold's held-out tasks share neither with what it learns from.
    smallest_sample : int
        Held-out choices that a method needs for a bound of its own; with fewer it gets that of all.
    """

    def __init__(
        self,
        *,
        trees: int = 200,
        leaves: int = 31,
        learning_rate: float = 0.05,
        smallest_leaf: int = 20,
        pair_trees: int = 40,
        pair_leaves: int = 15,
        pair_learning_rate: float = 0.1,
        residual: bool = True,
        confidence: float | None = 0.9,
        folds: int = 3,
        smallest_sample: int = 30,
        random_state: int = 0,
    ) -> None:
        self.trees = trees
        self.leaves = leaves
        self.learning_rate = learning_rate
        self.smallest_leaf = smallest_leaf
        self.pair_trees = pair_trees
        self.pair_leaves = pair_leaves
        self.pair_learning_rate = pair_learning_rate
        self.residual = residual
        self.confidence = confidence
        self.folds = folds
        self.smallest_sample = smallest_sample
        self.random_state = random_state

    def _fit(self, table: MethodTable) -> None:
        self.regression_, self.pairwise_, self.ranking_ = self._fitted_parts(table)
        if self.confidence is not None:
            self.offsets_ = self._calibrated(table, self.confidence)

    def _fitted_parts(self, table: MethodTable) -> "_Parts":
        trees, leaves, rate, smallest = self.trees, self.leaves, self.learning_rate, self.smallest_leaf
        return (
            JointRegression(
                trees=trees,
                leaves=leaves,
                learning_rate=rate,
                smallest_leaf=smallest,
                residual=self.residual,
                random_state=self.random_state,
            ).fit(table),
            PairwiseBoosting(
                trees=self.pair_trees,
                leaves=self.pair_leaves,
                learning_rate=self.pair_learning_rate,
                smallest_leaf=smallest,
                random_state=self.random_state,
            ).fit(table),
            RankingBoosting(
                trees=trees,
                leaves=leaves,
                learning_rate=rate,
                smallest_leaf=smallest,
                random_state=self.random_state,
            ).fit(table),
        )

    def _calibrated(self, table: MethodTable, confidence: float) -> FloatArray:
        """How far each method's gain, as chosen, falls below its prediction on groups held out: shape (m,)."""
        gains = log_gains(table)
        models = fold_of_groups(table.tasks.model, self.folds)
        accelerators = fold_of_groups(table.tasks.accelerator, self.folds)
        chosen, missed = [], []
        for fold in range(self.folds):
            # Where there is one group alone it cannot be held out, and only the other kind of group is
            held = ((models == fold) & (models.max() > 0)) | ((accelerators == fold) & (accelerators.max() > 0))
            if not held.any() or held.all():
                continue
            parts = self._fitted_parts(table.rows(~held))
            tasks = table.tasks.rows(held)
            columns, predicted = _picks(parts, tasks)
            true = gains[held, columns] - gains[held, tasks.default]
            told = (columns >= 0) & (columns != tasks.default) & np.isfinite(true) & np.isfinite(predicted)
            chosen.append(columns[told])
            missed.append((predicted - true)[told])
        m = len(table.tasks.methods)
        if not chosen:
            return np.full(m, np.inf)
        return lower_offsets(np.concatenate(chosen), np.concatenate(missed), m, confidence, self.smallest_sample)

    def _scores(self, tasks: TaskTable) -> FloatArray:
        parts = (self.regression_, self.pairwise_, self.ranking_)
        if self.confidence is None:
            return _together(parts, tasks)
        scores = _together(parts, tasks)
        columns, predicted = _picks(parts, tasks)
        unsure = ~(predicted - self.offsets_[columns] > 0) & np.isfinite(predicted)
        scores[unsure, tasks.default] = np.nan_to_num(scores, neginf=0.0).max(axis=1)[unsure] + 1.0
        return scores


_Parts = tuple[JointRegression, PairwiseBoosting, RankingBoosting]


def _together(parts: _Parts, tasks: TaskTable) -> FloatArray:
    opinions = [z_scores(part.scores(tasks), tasks.feasible) for part in parts]
    return masked(np.mean(opinions, axis=0), tasks.feasible)


def _picks(parts: _Parts, tasks: TaskTable) -> tuple[np.ndarray[tuple[int], np.dtype[np.intp]], FloatArray]:
    """Columns that the parts together choose, and the regression's gain of each over the default, shape (n,).

    The gain is NaN where the default cannot run: then there is nothing to abstain to.
    """
    columns = choose(tasks, _together(parts, tasks))
    gains = parts[0].scores(tasks)
    rows = np.arange(len(tasks))
    there = tasks.feasible[:, tasks.default]
    with np.errstate(invalid="ignore"):
        return columns, np.where(there, gains[rows, columns] - gains[rows, tasks.default], np.nan)


def z_scores(scores: FloatArray, feasible: BoolArray) -> FloatArray:
    """Scores less their mean over their deviation, both over each task's feasible methods; 0 where all are alike."""
    known = np.where(feasible, scores, 0.0)
    count = np.maximum(feasible.sum(axis=1, keepdims=True), 1)
    centred = np.where(feasible, known - known.sum(axis=1, keepdims=True) / count, 0.0)
    deviation = np.sqrt((centred**2).sum(axis=1, keepdims=True) / count)
    return np.where(deviation > 1e-12, centred / np.maximum(deviation, 1e-12), 0.0)
