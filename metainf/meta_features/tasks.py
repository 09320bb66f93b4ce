"""Tasks as the tables that selectors learn from: features, pairs with methods, and what facts allow.

Separate from the formulas: this only lays tasks and methods out as questions, asks in blocks that fit a cache, and puts
the answers where the contract wants them.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metainf.corpus.replicas import Infeasible, replica_of
from metainf.corpus.task import Task
from metainf.errors import InvalidWorkloadError
from metainf.meta_features.answers import LoadedLanes, slo_bounds
from metainf.meta_features.methods import SETTINGS_FEATURES, method_features
from metainf.meta_features.pairs import PAIR_FEATURES, pair_table, without_declared_rates
from metainf.meta_features.questions import QUESTION_FEATURES, QuestionFeatures
from metainf.meta_features.schema import FeatureDescription
from metainf.methods import Method, portfolio
from metainf.predictors.contract import LATENCY_METRICS, Question
from metainf.selectors.contract import BoolArray, TaskTable
from metainf.settings import EngineSettings
from metainf.workload import Statistic, longest_tokens

__all__ = ["TASK_COLUMNS", "TASK_FEATURES", "task_features", "task_table", "workload_group"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]

_BLOCK = 256  # tasks asked about together: some 4,000 questions, whose grids stay within 100 MiB
_TIGHTEST = 10.0  # how far a promise can be out of reach before it no longer matters how far
_QUANTILES = {Statistic.MEAN: 0.5, Statistic.P50: 0.5, Statistic.P95: 0.95, Statistic.P99: 0.99}
_OF_METHODS = frozenset({*(f.name for f in SETTINGS_FEATURES), "tokens_per_step"})  # under the default always alike
TASK_COLUMNS: tuple[int, ...] = tuple(
    place for place, f in enumerate(QUESTION_FEATURES) if f.name not in _OF_METHODS and f.name != "load_rate"
)
"""Of QUESTION_FEATURES: those that tell tasks apart. A declared rate does not (see `pairs`)."""

_SLO_FEATURES = (
    *(
        FeatureDescription(
            f"slo_{metric}_tightness",
            "1",
            f"{metric.upper()} on an empty replica over its SLO: 0 without one, 1 where an empty one just keeps it.",
        )
        for metric in LATENCY_METRICS
    ),
    FeatureDescription("slo_quantile", "1", "The furthest quantile that is promised; 0 without an SLO."),
)
TASK_FEATURES: tuple[FeatureDescription, ...] = (*(QUESTION_FEATURES[place] for place in TASK_COLUMNS), *_SLO_FEATURES)
"""TASK_COLUMNS of the question that asks about the task under vLLM's default, and the SLO's."""


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """The feasible pairs of some tasks, in the order of tasks and then of methods."""

    tasks: Sequence[Task]
    questions: list[Question]
    task_of: IntArray
    method_of: IntArray
    base_of: IntArray
    """The pair of the same task that others are compared with: the default's, or the simplest that is feasible."""


def task_features(tasks: Sequence[Task]) -> FloatArray:
    """Features of n tasks, shape (n, d), columns as TASK_FEATURES describes them.

    They are those of one replica under vLLM's default, or under the simplest method where the default cannot run; NaN
    where no method can.
    """
    known = QuestionFeatures()
    simplest_first = sorted(portfolio(), key=lambda method: method.complexity)
    found = np.full((len(tasks), len(TASK_FEATURES)), np.nan)
    for start in range(0, len(tasks), _BLOCK):
        some = tasks[start : start + _BLOCK]
        asked = [(row, q) for row, task in enumerate(some) if (q := _first(task, simplest_first)) is not None]
        if not asked:
            continue
        rows, questions = np.array([row for row, _ in asked]), [q for _, q in asked]
        lanes = known.lanes(questions)
        kinds = np.array([some[row].kind for row in rows])
        shared = without_declared_rates(known.of_lanes(questions, lanes), kinds)[:, TASK_COLUMNS]
        empty_s = LoadedLanes.of(lanes).empty_latency_s()
        slo = _slo_features([some[row] for row in rows], empty_s)
        found[start + rows] = np.concatenate([shared, slo], axis=1)
    return found


def task_table(
    tasks: Sequence[Task], methods: Sequence[Method] | None = None, *, allowed: BoolArray | None = None
) -> TaskTable:
    """The table of n tasks of one kind of traffic under m methods; None takes the whole portfolio of their version.

    Parameters
    ----------
    allowed : array of shape (n, m), optional
        Pairs that may be feasible, where facts allow them too. What is said of a pair beside the others of its task,
        such as how far it is expected to fall behind the best, is said beside these alone.

    Raises
    ------
    InvalidWorkloadError
        Kinds of traffic or engine versions are mixed, or the default is not among the methods.
    """
    methods = tuple(portfolio(tasks[0].engine_version) if methods is None and tasks else methods or portfolio())
    default = _checked(tasks, methods)
    n, m = len(tasks), len(methods)
    known = QuestionFeatures()
    complexity = np.array([method.complexity for method in methods], dtype=np.float64)
    features = np.full((n, len(TASK_FEATURES)), np.nan)
    pairs = np.full((n, m, len(PAIR_FEATURES)), np.nan)
    analytical = np.full((n, m), np.nan)
    feasible = np.zeros((n, m), dtype=np.bool_)
    order = np.where(np.arange(m) == default, -1.0, complexity)
    for start, block in _blocks(tasks, methods, order, np.ones((n, m), dtype=np.bool_) if allowed is None else allowed):
        if not block.questions:
            continue
        found = pair_table(block.tasks, block.questions, block.task_of, block.base_of, known)
        place = start + block.task_of, block.method_of
        pairs[place], analytical[place], feasible[place] = found.features, found.performance_log, True
        rows, bases = np.unique(block.task_of, return_index=True)
        bases = block.base_of[bases]
        slo = _slo_features([block.tasks[row] for row in rows], found.empty_latency_s[bases])
        shared = found.question_features[bases][:, TASK_COLUMNS]
        features[start + rows] = np.concatenate([shared, slo], axis=1)
    return TaskTable(
        features=features,
        feature_names=tuple(f.name for f in TASK_FEATURES),
        methods=tuple(method.name for method in methods),
        method_features=method_features(methods),
        pair_features=pairs,
        pair_feature_names=tuple(f.name for f in PAIR_FEATURES),
        analytical=analytical,
        feasible=feasible,
        complexity=complexity,
        default=default,
        model=np.array([task.model for task in tasks], dtype=np.str_),
        accelerator=np.array([task.accelerator for task in tasks], dtype=np.str_),
        workload=np.array([workload_group(task) for task in tasks], dtype=np.str_),
        draws=np.array([task.draws_key for task in tasks], dtype=np.str_),
        keys=np.array([task.key for task in tasks], dtype=np.str_),
    )


def _checked(tasks: Sequence[Task], methods: Sequence[Method]) -> int:
    """Column of the default."""
    kinds, versions = {task.kind for task in tasks}, {task.engine_version for task in tasks}
    if len(kinds) > 1:
        raise InvalidWorkloadError(f"a table holds one kind of traffic, not {', '.join(sorted(kinds))}")
    if len(versions) > 1:
        raise InvalidWorkloadError(f"a table holds one engine version, not {', '.join(sorted(versions))}")
    for column, method in enumerate(methods):
        if method.settings == EngineSettings():
            return column
    raise InvalidWorkloadError("a table compares with vLLM's default, which is not among the methods")


def _blocks(
    tasks: Sequence[Task], methods: Sequence[Method], order: FloatArray, may: BoolArray
) -> Iterator[tuple[int, _Block]]:
    """The tasks in blocks, each with the row of its first; the feasible method of lowest `order` is the base."""
    for start in range(0, len(tasks), _BLOCK):
        some = tasks[start : start + _BLOCK]
        questions: list[Question] = []
        task_of, method_of, base_of = [], [], []
        for row, task in enumerate(some):
            asked = [
                (column, _question(task, method)) for column, method in enumerate(methods) if may[start + row, column]
            ]
            allowed = [(column, question) for column, question in asked if question is not None]
            base = min((column for column, _ in allowed), key=lambda column: (order[column], column), default=0)
            first = len(questions)
            questions += [question for _, question in allowed]
            task_of += [row] * len(allowed)
            method_of += [column for column, _ in allowed]
            base_of += [first + [column for column, _ in allowed].index(base)] * len(allowed) if allowed else []
        places = (np.array(each, dtype=np.intp) for each in (task_of, method_of, base_of))
        yield start, _Block(some, questions, *places)


def _question(task: Task, method: Method) -> Question | None:
    """The pair as a question; None where facts rule it out: memory, conflicts, requests longer than the context."""
    replica, traffic = replica_of(task, method), task.traffic
    if isinstance(replica, Infeasible):
        return None
    if longest_tokens(traffic.input_tokens, traffic.output_tokens) > replica.settings.max_model_len:
        return None
    return Question(replica, traffic)


def _first(task: Task, methods: Sequence[Method]) -> Question | None:
    return next((found for method in methods if (found := _question(task, method)) is not None), None)


def _slo_features(tasks: Sequence[Task], empty_s: FloatArray) -> FloatArray:
    """How tight the promises are, shape (n, 4)."""
    bounds_s = slo_bounds([task.slo for task in tasks])
    tightness = np.minimum((empty_s / bounds_s).max(axis=2), _TIGHTEST)
    quantile = [max((_QUANTILES[b.statistic] for b in task.slo.bounds), default=0.0) for task in tasks]
    return np.concatenate([tightness, np.array(quantile)[:, None]], axis=1)


def workload_group(task: Task) -> str:
    """The group of a task's workload: where it comes from, and coarsely what its requests are; never their load.

    Exact figures would make a group of each task, and leaving such groups out no more than a random split. Bins: mean
    prompts by 256 and 2,048 tokens, mean answers by 64 and 512 (a factor of 8 each: the corpus has 32 to 32,768 and 8
    to 2,048), no shared prefix or one of less or more than half of all prompt tokens, and the declared repetition.
    """
    t, prefix = task.traffic, task.traffic.shared_prefix
    mean = t.input_tokens.mean_tokens
    share = 0.0 if prefix is None else prefix.ratio * min(prefix.tokens, mean) / mean
    shared = "no prefix" if share == 0.0 else f"prefix {'>=' if share >= _HALF_SHARED else '<'} half"
    lengths = f"in {_bin(mean, _INPUT_BINS)}, out {_bin(t.output_tokens.mean_tokens, _OUTPUT_BINS)}"
    return f"{task.origin}: {lengths}, {shared}, repeats {t.repetitiveness.value}"


_INPUT_BINS, _OUTPUT_BINS = (256, 2048), (64, 512)  # tokens
_HALF_SHARED = 0.5


def _bin(value: float, edges: Sequence[int]) -> str:
    """Between which edges a value lies, as text; from each edge on the next bin begins."""
    place = bisect_right(edges, value)
    if place == 0:
        return f"<{edges[0]}"
    return f">={edges[-1]}" if place == len(edges) else f"{edges[place - 1]}-{edges[place]}"
