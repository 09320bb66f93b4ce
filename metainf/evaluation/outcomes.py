"""What selectors choose on the held-out tasks of a split, and the figures of that with their intervals.

Separate from the metrics (definitions) and from the report (which selectors, splits and kinds): a selector meets data
here and in `fold_outcomes` alone, so that it is seen to that it learns from a fold's train rows, and that the single
best and the classes of the macro F1 are fixed on these too.

Figures pool the folds: each task is judged once, by a selector that has seen nothing of its group.

What is learnt from may be another truth than what is judged by, about the same and about other tasks: then it is asked
what a selector is worth in a world whose efficiencies it has never met. The folds hold out the same groups as within
one world.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from metainf.corpus.repeats import over_seeds
from metainf.errors import UndefinedMetricError
from metainf.evaluation import metrics
from metainf.evaluation.fits import Fits
from metainf.evaluation.fold_outcomes import Clock, SelectorFactory, Trial
from metainf.evaluation.splits import Fold, Split
from metainf.selectors.contract import BoolArray, FloatArray, MethodTable

__all__ = [
    "CEILING",
    "DEFAULT",
    "SINGLE_BEST",
    "VIRTUAL_BEST",
    "Clock",
    "Evidence",
    "LimitCounts",
    "Outcome",
    "SelectorFactory",
    "broken_by",
    "ceiling_outcome",
    "reference_outcomes",
    "run_selector",
]

IntArray = NDArray[np.intp]

DEFAULT = "vllm-default"
SINGLE_BEST = "single-best"
VIRTUAL_BEST = "virtual-best"
CEILING = "ceiling"


@dataclass(frozen=True, slots=True)
class LimitCounts:
    """What limits do to the tasks of a kind of traffic, all that its world knows, before any are thinned."""

    tasks: int
    left_out: int
    """On which nothing keeps every limit: nobody is judged on them."""
    best_over_budget: int
    """Of those that are not left out: on which what does most among what keeps its promises is over the budget."""
    decisive_share: float
    """Of all these tasks, were there no limits but those that performance counts itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """The tasks of one kind of traffic with their truth, and what else is known of them for the figures.

    Attributes
    ----------
    broken : array of shape (n, m), bool, or None
        What runs but breaks an SLO or the budget in truth; selectors learn of it for train tasks, as the single best is
        fixed by it.
    price_usd_per_hour : array of shape (n,), or None
        Of what the performance is of: a replica, or one accelerator for rates.
    batch_size : array of shape (n,), or None
        Requests at once, for the comparison with serving one at a time.
    one_at_a_time : int or None
        Column of that method.
    performance_by_seed : array of shape (n, m, seeds), or None
        For the ceiling, as `over_seeds` takes it; NaN for seeds that a task does not have.
    margin_by_seed : array of shape (n, m, seeds, limits), or None
        Allowed over needed of each limit, by which `broken` is set: for the ceiling too, whose halves of the seeds must
        not see each other's limits.
    limits : what the limits left out, or None where nobody asked
    learnt : table of any tasks, or None
        What selectors learn from, where it is another truth than they are judged by: all that it knows, with what is
        broken there. The folds of a split then have train rows of it.
    """

    table: MethodTable
    broken: BoolArray | None = None
    price_usd_per_hour: FloatArray | None = None
    batch_size: FloatArray | None = None
    one_at_a_time: int | None = None
    performance_by_seed: FloatArray | None = None
    margin_by_seed: FloatArray | None = None
    limits: LimitCounts | None = None
    learnt: MethodTable | None = None

    @property
    def lessons(self) -> MethodTable:
        """What selectors learn from, with what is broken in it."""
        return replace(self.table, broken=self.broken) if self.learnt is None else self.learnt

    def __len__(self) -> int:
        return len(self.table)

    def rows(self, index: IntArray | BoolArray) -> "Evidence":
        """The judged tasks that `index` picks; what is learnt from another truth stays whole."""
        arrays = ("broken", "price_usd_per_hour", "batch_size", "performance_by_seed", "margin_by_seed")
        picked = {name: getattr(self, name)[index] for name in arrays if getattr(self, name) is not None}
        return replace(self, table=self.table.rows(index), **picked)

    def without_features(self) -> "Evidence":
        """The same tasks with the same truth and no features, which figures do not look at: its rows are small."""
        learnt = None if self.learnt is None else _without_features(self.learnt)
        return replace(self, table=_without_features(self.table), learnt=learnt)

    def changed(self, change: Callable[[MethodTable], MethodTable]) -> "Evidence":
        """With this change of what is learnt from and of what is judged by, what is broken included."""
        table = change(replace(self.table, broken=self.broken))
        learnt = None if self.learnt is None else change(self.learnt)
        return replace(self, table=table, broken=table.broken, learnt=learnt)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What one selector chose on all held-out tasks of a split.

    Attributes
    ----------
    judged : array of shape (k,)
        Rows of the evidence, in the order of the folds.
    chosen : array of shape (k,)
        Columns; -1 refuses.
    single : array of shape (k,)
        Choices of the single best of each row's train half; the default's column where there is none.
    classes : array of shape (k, m), bool
        Which methods are classes of the macro F1, by each row's train half.
    single_methods : one name per fold
        What that single best was.
    fit_s, decide_s : seconds, all folds together
    failure : why it has no choices, empty where it has
    scores : array of shape (k, m), or None
        What a selector chose by: for choices among fewer methods. None of a failure, and of what is no selector.
    """

    selector: str
    judged: IntArray
    chosen: IntArray
    single: IntArray
    classes: BoolArray
    single_methods: tuple[str, ...] = ()
    fit_s: float = 0.0
    decide_s: float = 0.0
    failure: str = ""
    scores: FloatArray | None = None


def run_selector(
    name: str, make: SelectorFactory, evidence: Evidence, split: Split, *, clock: Clock, fits: Fits | None = None
) -> Outcome:
    """Fit a new selector on each fold's train rows and let it choose for the test rows.

    A selector that cannot be fitted on this evidence says so in the outcome. `fits` says where folds are kept that were
    fitted already, and until when others may be; without it all are fitted.

    Raises
    ------
    OutOfTimeError
        A fold has to be fitted, and would end too late.
    """
    trial = Trial(name, make, evidence.lessons, evidence.table.tasks)
    found = (Fits() if fits is None else fits).outcomes(trial, split.folds, clock)
    blank = replace(
        _blank(name, evidence, split),
        fit_s=sum((each.fit_s for each in found), 0.0),
        decide_s=sum((each.decide_s for each in found), 0.0),
    )
    if found and found[-1].failure:
        return replace(blank, failure=found[-1].failure)
    scores = np.concatenate([each.scores for each in found]) if found else None
    return replace(blank, chosen=_joined([each.chosen for each in found]), scores=scores)


def reference_outcomes(evidence: Evidence, split: Split) -> tuple[Outcome, ...]:
    """The default, the single best of each train half, and the virtual best, which no selector can pass."""
    blank = _blank(DEFAULT, evidence, split)
    table = evidence.table
    best = metrics.virtual_best(table, evidence.broken)[blank.judged]
    return (
        replace(blank, chosen=metrics.default_choice(table)[blank.judged]),
        replace(blank, selector=SINGLE_BEST, chosen=blank.single),
        replace(blank, selector=VIRTUAL_BEST, chosen=best),
    )


def ceiling_outcome(evidence: Evidence, split: Split) -> tuple[Evidence, Outcome] | None:
    """Choices by the truth of every other seed, with the evidence of the rest to judge them: noise alone is between.

    Tasks for which one of the halves has nothing are without any truth in the evidence and refused. None where that is
    so of all.
    """
    seeds = evidence.performance_by_seed
    if seeds is None:
        return None
    known, known_broken = _half(evidence, seeds, 0)
    rest, rest_broken = _half(evidence, seeds, 1)
    several = np.any(metrics.good(known, known_broken), axis=1) & np.any(metrics.good(rest, rest_broken), axis=1)
    if not several.any():
        return None
    known, rest = (
        replace(half, performance=np.where(several[:, None], half.performance, np.nan)) for half in (known, rest)
    )
    blank = _blank(CEILING, evidence, split)
    chosen = metrics.labels(known, known_broken)[blank.judged]
    return replace(evidence, table=rest, broken=rest_broken), replace(blank, chosen=chosen)


def broken_by(margin: FloatArray) -> BoolArray:
    """Shape (n, m): what breaks a limit over the repeats together, by `Evidence.margin_by_seed`."""
    with np.errstate(invalid="ignore"):
        missed = [over_seeds(margin[..., limit]) < 1.0 for limit in range(margin.shape[3])]
    found: BoolArray = np.any(missed, axis=0)
    return found


def _half(evidence: Evidence, seeds: FloatArray, first: int) -> tuple[MethodTable, BoolArray | None]:
    """The truth by every other seed from the first of them on, and what that says is broken."""
    margin = evidence.margin_by_seed
    broken = evidence.broken if margin is None else broken_by(margin[:, :, first::2])
    return replace(evidence.table, performance=over_seeds(seeds[:, :, first::2])), broken


def _blank(name: str, evidence: Evidence, split: Split) -> Outcome:
    """An outcome without choices yet, with what each fold's train half fixes."""
    evidence = evidence.without_features()
    judged = _joined([fold.test for fold in split.folds])
    single, classes, names = [], [], []
    for fold in split.folds:
        column, members = _fixed_on_train(evidence, fold)
        test = evidence.table.rows(fold.test)
        names.append(test.tasks.methods[column])
        single.append(metrics.single_best_choice(test, column))
        classes.append(np.broadcast_to(members, (len(fold.test), len(members))))
    width = len(evidence.table.tasks.methods)
    return Outcome(
        selector=name,
        judged=judged,
        chosen=np.full(len(judged), -1, dtype=np.intp),
        single=_joined(single),
        classes=np.concatenate(classes) if classes else np.zeros((0, width), dtype=np.bool_),
        single_methods=tuple(names),
    )


def _fixed_on_train(evidence: Evidence, fold: Fold) -> tuple[int, BoolArray]:
    train = evidence.lessons.rows(fold.train)
    members = np.zeros(len(train.tasks.methods), dtype=np.bool_)
    members[metrics.class_labels(train, train.broken)] = True
    try:
        return metrics.single_best(train, train.broken), members
    except UndefinedMetricError:
        return train.tasks.default, members


def _without_features(table: MethodTable) -> MethodTable:
    tasks = table.tasks
    bare = replace(
        tasks,
        features=tasks.features[:, :0],
        feature_names=(),
        pair_features=tasks.pair_features[:, :, :0],
        pair_feature_names=(),
    )
    return replace(table, tasks=bare)


def _joined(parts: list[IntArray]) -> IntArray:
    return np.concatenate(parts).astype(np.intp) if parts else np.zeros(0, dtype=np.intp)
