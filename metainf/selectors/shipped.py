"""What ships, as a selector: the artifact's predictor, trained, written to a file, loaded again, and asked.

Separate from the `ensemble`, whose boosted trees learn from tables and ship nowhere: the row `metainf` of a report is
about the very file that the operator loads. So it is trained as `metainf train` trains, on the rows of the train tasks
and of tasks like them that no table has, since they were measured under few methods: those whose model, accelerator and
workload all are some train task's, so that nothing is learnt of what a split holds out. It goes through
`write_artifact` and `load_predictor`; what is lost on the way is lost here too. It asks about methods what the operator
asks, and ranks them as the operator would, but that it has to name one (`operator_ranking`).

A table holds what selectors learn from, and neither rows nor questions. So this one is given a corpus, and finds its
tasks by the keys of the table; what features, physics and performance the table has besides does not matter to it. One
consequence: what spoils a table, as leak checks do, does not touch it, and taking its rows away leaves physics.

What it is not. A table holds one kind of traffic, so it learns from that kind alone, and from `most_lanes` pairs at
most, where what ships learns from all kinds and 400,000. Reports print how many these are beside its name. Nor has it
the factor that rows of real servers give what ships (`training.server_steps`): a corpus's truth is kernels alone.

What it costs. A fit of all trees for each fold of models and of accelerators and one of all rows, each of a time that
grows as trees x rows; beside it a share for each pair, which is described, judged and calibrated on. A pair of a rate
has a dozen rows, one of clients or a batch one for each repeat. 2,400 pairs of rates with 3 folds take 27 s beside
other work (2 shared cores). An evaluation with all splits trains 41 times for each kind. A choice asks one question for
each method, a rate 14, at some 25 microseconds each.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc

from metainf.artifact import load_predictor
from metainf.corpus.task import Task
from metainf.meta_features.tasks import workload_group
from metainf.predictors.trained import TrainedPredictor
from metainf.selectors.base import BaseSelector
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable
from metainf.selectors.operator_ranking import operator_scores
from metainf.training.boosting import Growth
from metainf.training.train import TrainingPlan, train, write_artifact

__all__ = ["Lessons", "Shipped", "exported"]

_FILE = "predictor.metainf"

_HELD_OUT: Sequence[Callable[[Task], str]] = (
    lambda task: task.kind.value,
    lambda task: task.model,
    lambda task: task.accelerator,
    workload_group,
)
"""What the folds of a split may differ in: their groups are made of these."""


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """A corpus as this selector learns from it: rows of one world, or of each task's own, and the tasks by key."""

    rows: pa.Table
    tasks: Mapping[str, Task]
    whole: frozenset[str] | None = None
    """Keys of the tasks that were measured under all methods, which tables are made of; None: all were."""

    def like(self, keys: Sequence[str]) -> list[str]:
        """Tasks of few methods whose traffic's kind, model, accelerator and workload are those of some of these."""
        if self.whole is None:
            return []
        known = [self.tasks[key] for key in keys]
        parts = [set(map(part, known)) for part in _HELD_OUT]
        others = ((key, task) for key, task in self.tasks.items() if key not in self.whole)
        return [
            key
            for key, task in others
            if all(part(task) in found for part, found in zip(_HELD_OUT, parts, strict=True))
        ]


class Shipped(BaseSelector):
    """The method that the operator would choose with the predictor that ships.

    Parameters
    ----------
    corpus : Lessons or None
        With the tasks of all tables that it is given, and the rows of those that it is fitted on. None can be made but
        not fitted.
    trees : int
        As many as ship.
    folds : int
        Of models, and as many of accelerators, by which spreads and cautions are set; 5 where it ships.
    most_lanes : int
        (Task, method) pairs that it learns from; of more, whole tasks are left out evenly.
    confidence : float or None
        At which limits are judged; None: at the medians.
    """

    def __init__(
        self,
        corpus: Lessons | None = None,
        *,
        trees: int = 250,
        folds: int = 3,
        most_lanes: int = 6000,
        confidence: float | None = None,
        random_state: int = 0,
    ) -> None:
        self.corpus = corpus
        self.trees = trees
        self.folds = folds
        self.most_lanes = most_lanes
        self.confidence = confidence
        self.random_state = random_state

    def _fit(self, table: MethodTable) -> None:
        corpus, keys = self._known(table.tasks)
        names = sorted(set(keys))
        names += corpus.like(names)
        mine = pc.is_in(corpus.rows.column("task"), value_set=pa.array(names, pa.string()))
        plan = TrainingPlan(
            seed=self.random_state,
            growth=replace(Growth(), trees=self.trees),
            most_folds=self.folds,
            most_lanes=self.most_lanes,
        )
        taught = [corpus.tasks[name] for name in names]
        self.predictor_ = exported(corpus.rows.filter(mine), taught, plan, whole=corpus.whole)

    def _scores(self, tasks: TaskTable) -> FloatArray:
        corpus, keys = self._known(tasks)
        asked = [corpus.tasks[key] for key in keys]
        return operator_scores(self.predictor_, asked, tasks.methods, tasks.feasible, confidence=self.confidence)

    def _known(self, tasks: TaskTable) -> tuple[Lessons, list[str]]:
        """The corpus, and the keys of these tasks in it.

        Raises
        ------
        ValueError
            There is no corpus, the table names no tasks, or it names one that the corpus has not.
        """
        if self.corpus is None:
            raise ValueError("training what ships needs the rows of a corpus, and got none")
        if tasks.keys is None:
            raise ValueError("asking what ships about tasks needs their keys, and the table has none")
        keys: list[str] = tasks.keys.tolist()
        strange = sorted(set(keys) - self.corpus.tasks.keys())
        if strange:
            raise ValueError(f"asking what ships about the task {strange[0]}, which its corpus has not")
        return self.corpus, keys


def exported(
    rows: pa.Table, tasks: Sequence[Task], plan: TrainingPlan, *, whole: frozenset[str] | None = None
) -> TrainedPredictor:
    """A predictor trained on these rows about these tasks, written to a file and loaded from it.

    `whole` are the keys of those that were measured under all methods; None: all of them.

    Raises
    ------
    InvalidWorkloadError
        The rows teach nothing.
    """
    model, report = train(rows, tasks, plan, whole=whole)
    digest = hashlib.sha256("\n".join(sorted(task.key for task in tasks)).encode()).hexdigest()
    with TemporaryDirectory() as folder:
        path = Path(folder) / _FILE
        write_artifact(model, report, path, corpus_digest=f"sha256:{digest}", world="a fold's", seed=plan.seed)
        return load_predictor(path)
