"""Trained predictors that have not seen a model's group, for whoever asks about that model.

Separate from `held_out`, which judges residuals of rows: a study of whole decisions needs a predictor that answers any
question, with spreads and caution as an artifact has them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa

from metainf.corpus.task import Task
from metainf.evaluation.groups import model_groups
from metainf.evaluation.splits import grouped_folds
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.contract import Predictor
from metainf.predictors.trained import TrainedPredictor
from metainf.training.judging import ANALYTICAL, TRAINED
from metainf.training.train import TrainingPlan, train

__all__ = ["HeldOutPredictors"]

_HELD_OUT = "held-out"


class HeldOutPredictors:
    """The analytical predictor, and a trained one of the rows about all other model groups.

    Parameters
    ----------
    table : pyarrow.Table
        Rows of one world.
    folds : int
        Into so many the model groups are packed; each fold is trained on when it is first asked about.
    whole : keys of tasks, optional
        Those that have rows of all methods (see `train`).
    """

    def __init__(
        self,
        table: pa.Table,
        tasks: Sequence[Task],
        plan: TrainingPlan,
        *,
        folds: int,
        whole: Collection[str] | None = None,
        report: Callable[[str], None] = lambda what: None,
    ) -> None:
        self._table, self._tasks, self._plan, self._report = table, tasks, plan, report
        self._whole = whole
        models = table.column("model").to_numpy(zero_copy_only=False).astype(np.str_)
        groups = model_groups(models.tolist())
        self._folds = grouped_folds([groups[each] for each in models.tolist()], folds)
        self._held_by = {
            model: number for number, fold in enumerate(self._folds) for model in np.unique(models[fold.test]).tolist()
        }
        self._analytical = AnalyticalPredictor()
        self._trained: dict[int, Predictor] = {}

    def __call__(self, model: str) -> Mapping[str, Predictor]:
        """By name; the analytical one alone where nothing can be held out."""
        found: dict[str, Predictor] = {ANALYTICAL: self._analytical}
        if self._folds:
            number = self._held_by.get(model, 0)  # a model without rows was seen by none of them
            if number not in self._trained:
                self._trained[number] = self._without(number)
            found[f"{TRAINED}, model held out"] = self._trained[number]
        return found

    def _without(self, number: int) -> Predictor:
        fold = self._folds[number]
        self._report(f"training without {fold.held_out}")
        model, _ = train(self._table.take(pa.array(fold.train)), self._tasks, self._plan, whole=self._whole)
        return TrainedPredictor(model, f"{_HELD_OUT}-{number}")
