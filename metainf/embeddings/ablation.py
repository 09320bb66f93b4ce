"""What an embedding is worth: one selector, fitted on each of them in turn, judged on the same held-out tasks.

Separate from the embeddings, which know no selector, and from `benchmarks/embedding_ablation.py`, which reads a corpus,
names the embeddings and draws: here is what makes them comparable. Embeddings are fitted inside of each fold, on its
train tasks alone; figures are those of `metainf.evaluation`, on decisive tasks and on all.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from metainf.corpus.task import Task
from metainf.embeddings.contract import Embedding
from metainf.evaluation.figures import Figures, figures_of, judged_tasks
from metainf.evaluation.leaks import without_physics
from metainf.evaluation.outcomes import Clock, Evidence, reference_outcomes, run_selector
from metainf.evaluation.splits import Split
from metainf.evaluation.studies import group_draws
from metainf.selectors.contract import MethodTable, Selector, TaskTable

__all__ = ["AblationRow", "EmbeddedSelector", "ablate", "indexed"]

FloatArray = NDArray[np.float64]

TRAIN_SHARE = 0.8
"""Of the train tasks that each seed learns from: most learners here have nothing else that a seed would change."""
_INDEX = ("row",)


@dataclass(frozen=True, slots=True)
class AblationRow:
    """One embedding on one split under one seed."""

    embedding: str
    split: str
    seed: int
    columns: int
    decisive: Figures
    every: Figures
    seconds: float


class EmbeddedSelector:
    """A selector that sees tasks as an embedding gives them; tables name tasks by their place (`indexed`).

    Parameters
    ----------
    tasks : all tasks, in the order of their places
    embedding : Embedding
    selector : Selector
    seed : int
        Draws which share of the train tasks is learned from.
    """

    columns_: int

    def __init__(self, tasks: Sequence[Task], embedding: Embedding, selector: Selector, seed: int = 0) -> None:
        self.tasks = tasks
        self.embedding = embedding
        self.selector = selector
        self.seed = seed

    def fit(self, table: MethodTable) -> Self:
        """Fit the embedding, then the selector on what it gives, both on the same drawn tasks."""
        rng = np.random.default_rng(self.seed)
        drawn = np.sort(rng.choice(len(table), max(1, round(TRAIN_SHARE * len(table))), replace=False))
        kept = table.rows(drawn.astype(np.intp))
        self.embedding.fit(self._of(kept.tasks))
        seen = self._seen(kept.tasks)
        self.columns_ = seen.features.shape[1]
        self.selector.fit(replace(kept, tasks=seen))
        return self

    def scores(self, tasks: TaskTable) -> FloatArray:
        """The selector's scores of the tasks as the embedding gives them."""
        return self.selector.scores(self._seen(tasks))

    def _of(self, tasks: TaskTable) -> list[Task]:
        return [self.tasks[int(place)] for place in tasks.features[:, 0]]

    def _seen(self, tasks: TaskTable) -> TaskTable:
        features = self.embedding.transform(self._of(tasks))
        return replace(tasks, features=features, feature_names=self.embedding.feature_names)


def indexed(table: MethodTable, *, physics: bool) -> MethodTable:
    """The table with the place of each task for features, and without what physics says of pairs unless asked for."""
    bare = table if physics else without_physics(table)
    places = np.arange(len(table), dtype=np.float64)[:, None]
    return replace(bare, tasks=replace(bare.tasks, features=places, feature_names=_INDEX))


def ablate(
    tasks: Sequence[Task],
    table: MethodTable,
    splits: Sequence[Split],
    embeddings: Mapping[str, Callable[[int], Embedding]],
    make_selector: Callable[[int], Selector],
    *,
    seeds: Sequence[int],
    clock: Clock,
    physics: bool = False,
) -> Iterator[AblationRow]:
    """A row for each embedding, split and seed, as they are done.

    Parameters
    ----------
    tasks, table : n tasks and the truth about them, in the same order; one kind of traffic
    embeddings : by name, each made anew from a seed
    make_selector : from a seed
    physics : bool
        Whether the selector also sees what the analytical predictor says of each (task, method).
    """
    evidence = Evidence(indexed(table, physics=physics))
    for split in splits:
        single = reference_outcomes(evidence, split)[0].single
        for name, make in embeddings.items():
            for seed in seeds:
                made: list[EmbeddedSelector] = []

                def fresh(
                    make: Callable[[int], Embedding] = make, seed: int = seed, made: list[EmbeddedSelector] = made
                ) -> Selector:
                    made.append(EmbeddedSelector(tasks, make(seed), make_selector(seed), seed))
                    return made[-1]

                outcome = replace(run_selector(name, fresh, evidence, split, clock=clock), single=single)
                judged = judged_tasks(evidence, outcome)
                draws = group_draws(split, judged)
                everything = np.ones(len(judged.gain), dtype=np.bool_)
                yield AblationRow(
                    embedding=name,
                    split=str(split.kind),
                    seed=seed,
                    columns=made[-1].columns_ if made and not outcome.failure else 0,
                    decisive=figures_of(judged, judged.decisive, draws),
                    every=figures_of(judged, everything, draws),
                    seconds=outcome.fit_s + outcome.decide_s,
                )
