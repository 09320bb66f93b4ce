"""The operator's own choice held against a world: what `select` buys for a workload, and what would truly have done.

Separate from the figures (`operator_choice`), which need only costs and truths, from the truth of an option
(`operator_truths`), and from the corpus, whose tasks each stand on one accelerator: here a task's workload may go to
every accelerator that has a price, in every layout, under every method and number of replicas, and the truth of that is
simulated when it is asked for.

Each workload has the budget that is drawn for its task (`budgets`), around what the default truly costs on the task's
own place: per hour for rates, per million output tokens for clients, in total for batches. What is chosen has to keep
it at the asked confidence, and in truth. A task without one may spend anything.

What is not known. A world of measured tables knows some accelerators and number formats alone. A workload is judged by
the world that says what is true of its task; pools of which that world knows nothing are not offered, an option of
which it knows nothing is not tried, and a choice of one is left out and counted: neither kept nor broken.

What is not tried. For each workload the cheapest that truly serves it is looked for among so many options (method,
layout, pool) that the analytical predictor puts first by cost, and among those that any predictor chose: one that
nobody expects to be cheap is not found, so "above the cheapest" is a lower bound.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from types import MappingProxyType

import numpy as np

from metainf import accelerators
from metainf.candidates import Option, SizedOption, enumerate_candidates
from metainf.corpus.budget_kinds import ANY_AMOUNT, any_budget
from metainf.corpus.task import Task, TrafficKind
from metainf.corpus.worlds import StepOracle
from metainf.evaluation.groups import model_groups
from metainf.evaluation.kept_files import content_digest
from metainf.evaluation.operator_choice import OperatorFigures, OperatorTasks, operator_figures
from metainf.evaluation.operator_truths import Judged, Priced, Truth, Unknown
from metainf.evaluation.prices import accelerator_prices
from metainf.known_models import known_model
from metainf.placement import empty_node
from metainf.pools import NodePool, NodeShape, Price, PriceSource
from metainf.predictors.contract import Predictor
from metainf.selection import Request, Selection, select
from metainf.workload import Budget, LossyPolicy, MethodLimits, Workload

__all__ = ["OperatorStudy", "StudyPlan", "study_operator", "study_policies"]

PredictorsOf = Callable[[str], Mapping[str, Predictor]]
"""From a model's id to the predictors by name, the same names for all; what was trained has not seen its group."""
OracleOf = Callable[[Task], StepOracle]
"""The world that says what is true of a task."""

Keep = Callable[[str, Callable[[], Judged | None]], Judged | None]
"""From a digest of a workload under a plan, and what judges it, to what that says: as it is kept, or anew."""

_GIB = 1 << 30
_PER_NODE = 8
_NODES = 32


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """How many workloads of each kind, evenly over the tasks, and how many options of each are simulated."""

    workloads: int = 50
    options: int = 40
    confidence: float = 0.9
    lossy: LossyPolicy = LossyPolicy.NEVER
    """Whether the workloads allow methods that can change answers: what is neither offered nor tried otherwise."""


@dataclass(frozen=True, slots=True)
class OperatorStudy:
    """Figures of each kind of traffic by predictor; `pools` are the accelerators that could be bought."""

    pools: tuple[str, ...]
    options: int
    figures: Mapping[TrafficKind, Mapping[str, OperatorFigures]]
    lossy: LossyPolicy = LossyPolicy.NEVER


def _anew(_: str, judge: Callable[[], Judged | None]) -> Judged | None:
    return judge()


def study_policies(
    tasks: Sequence[Task],
    oracle_of: OracleOf,
    predictors: PredictorsOf,
    plan: StudyPlan = StudyPlan(),
    *,
    policies: Sequence[LossyPolicy] = tuple(LossyPolicy),
    budgets: Mapping[str, Budget] = MappingProxyType({}),
    report: Callable[[str], None] = lambda what: None,
    keep: Keep = _anew,
) -> tuple[OperatorStudy, ...]:
    """The study under each of these policies on lossy methods, on the same workloads; nothing is simulated twice.

    `budgets` are by the tasks' keys. `keep` gives what is known of a workload from an earlier study of the same tasks,
    worlds and predictors.
    """
    truths: dict[str, Truth] = {}

    def studied(lossy: LossyPolicy) -> OperatorStudy:
        def say(line: str) -> None:
            report(f"lossy methods {lossy}: {line}")

        mine = replace(plan, lossy=lossy)
        return study_operator(tasks, oracle_of, predictors, mine, budgets=budgets, report=say, truths=truths, keep=keep)

    return tuple(studied(lossy) for lossy in policies)


def study_operator(
    tasks: Sequence[Task],
    oracle_of: OracleOf,
    predictors: PredictorsOf,
    plan: StudyPlan = StudyPlan(),
    *,
    budgets: Mapping[str, Budget] = MappingProxyType({}),
    report: Callable[[str], None] = lambda what: None,
    truths: dict[str, Truth] | None = None,
    keep: Keep = _anew,
) -> OperatorStudy:
    """Let the operator's selection choose for workloads of these tasks, and judge that by each task's own world.

    The first predictor of each mapping says which options are simulated. `budgets` are by the tasks' keys. `truths`
    keeps what was simulated, for other studies of the same tasks under the same budgets; `keep` what came of each
    workload.
    """
    pools = _pools()
    simulated: dict[str, Truth] = {} if truths is None else truths

    def judge(task: Task) -> Judged | None:
        oracle = oracle_of(task)
        offered = _known_pools(task, oracle, pools, plan.lossy)
        if not offered:
            return None
        request = _request(task, offered, plan.confidence, plan.lossy, budgets.get(task.key))
        truth = simulated.setdefault(task.key, Truth(task, oracle, request.workload.budget))
        return _judged(truth, request, predictors(task.model), plan.options)

    figures: dict[TrafficKind, Mapping[str, OperatorFigures]] = {}
    for kind in TrafficKind:
        mine = [task for task in tasks if task.kind is kind and _is_limited(task, budgets)]
        places = np.unique(np.linspace(0, len(mine) - 1, plan.workloads).astype(np.intp)).tolist() if mine else []
        judged: list[Judged] = []
        names: list[str] = []
        groups = model_groups([task.model for task in mine])
        for number, place in enumerate(places):
            report(f"operator's choice, {kind}: workload {number + 1} of {len(places)}")
            task = mine[place]
            about = content_digest(task.key, repr(budgets.get(task.key)), plan.options, plan.confidence, plan.lossy)
            found = keep(about, partial(judge, task))
            if found is not None:
                judged.append(found)
                names.append(groups[task.model])
        if judged:
            figures[kind] = _figures(judged, names)
    return OperatorStudy(tuple(pool.name for pool in pools), plan.options, figures, plan.lossy)


def _is_limited(task: Task, budgets: Mapping[str, Budget]) -> bool:
    return bool(task.slo.bounds) or task.kind is TrafficKind.BATCH or task.key in budgets


def _pools() -> tuple[NodePool, ...]:
    """A pool of eight-accelerator nodes for each accelerator with a price, each billed by its share."""
    pools = []
    for name, price in accelerator_prices().items():
        device = accelerators.get(name)
        assert device is not None, f"{name} is in the catalogue"
        shape = NodeShape(_PER_NODE, 16.0 * _PER_NODE, 256 * _GIB * _PER_NODE)
        pools.append(
            NodePool(
                name=name.lower(),
                accelerator=device,
                product=name,
                resource_name="nvidia.com/gpu",
                shape=shape,
                nodes=tuple(empty_node(shape, f"{name.lower()}-{i}") for i in range(_NODES)),
                price=Price(
                    Decimal(repr(round(price.usd_per_hour * _PER_NODE, 6))), "USD", PriceSource.BUNDLED, price.as_of
                ),
            )
        )
    return tuple(pools)


def _known_pools(task: Task, oracle: StepOracle, pools: Sequence[NodePool], lossy: LossyPolicy) -> tuple[NodePool, ...]:
    """Those of which the world knows an option."""
    known: set[str] = set()
    for option in (sized.option for sized in _sized(_request(task, pools, 0.5, lossy))):
        if option.pool.name not in known and oracle.times(option.replica, 0) is not None:
            known.add(option.pool.name)
    return tuple(pool for pool in pools if pool.name in known)


def _judged(truth: Truth, request: Request, predictors: Mapping[str, Predictor], options: int) -> Judged:
    chosen: dict[str, Priced | Unknown | None] = {}
    for name, predictor in predictors.items():
        found = select(request, predictor)
        picked = found.chosen.candidate if isinstance(found, Selection) else None
        chosen[name] = None if picked is None else truth.of(picked.option, picked.replicas)
    tried = [each for each in chosen.values() if isinstance(each, Priced)]
    for option in _likely(request, next(iter(predictors.values())), options):
        cheapest = truth.cheapest(option)
        if cheapest is not None:
            tried.append(cheapest)
    return chosen, tried


def _request(
    task: Task, pools: Sequence[NodePool], confidence: float, lossy: LossyPolicy, budget: Budget | None = None
) -> Request:
    architecture = known_model(task.model)
    assert architecture is not None, f"{task.model} is bundled"
    workload = Workload(
        traffic=task.traffic,
        budget=budget or any_budget(task.kind),
        slo=task.slo,
        methods=MethodLimits(lossy=lossy),
        confidence=confidence,
        draft_model=task.draft_model,
    )
    return Request(workload, architecture, tuple(pools), task.engine_version)


def _likely(request: Request, predictor: Predictor, most: int) -> Sequence[Option]:
    """The options by what they are predicted to cost, at even odds: the first of each pool, layout and method.

    Whatever may be spent: what is truly cheapest must not hang on what is thought to be too dear.
    """
    budget = replace(request.workload.budget, amount=ANY_AMOUNT)
    even = replace(request, workload=replace(request.workload, confidence=0.5, budget=budget))
    found = select(even, predictor)
    named = [found.chosen, *found.alternatives] if isinstance(found, Selection) else list(found.nearest)
    first = [each.candidate.option for each in named]
    seen = {(o.pool.name, o.layout.name, o.method.name) for o in first}
    rest = sorted(_sized(request), key=lambda each: (float(each.with_replicas(each.least).cost_per_hour), each.least))
    others = [s.option for s in rest if (s.option.pool.name, s.option.layout.name, s.option.method.name) not in seen]
    step = max(1, len(others) // max(1, most - len(first)))
    return [*first, *others[::step]][:most]


def _sized(request: Request) -> Sequence[SizedOption]:
    """All that could be bought."""
    return enumerate_candidates(
        request.workload, request.architecture, request.pools, engine_version=request.engine_version
    ).options


def _figures(judged: Sequence[Judged], groups: Sequence[str]) -> Mapping[str, OperatorFigures]:
    """Of each predictor: its choice stands in the first column, everything that was simulated behind it.

    A predictor of whose choices nothing at all is known has none.
    """
    width = 1 + max(len(tried) for _, tried in judged)
    found = {}
    for name in judged[0][0]:
        told = [row for row, (picks, _) in enumerate(judged) if not isinstance(picks[name], Unknown)]
        if not told:
            continue
        usd, kept = np.full((len(told), width), np.nan), np.zeros((len(told), width), dtype=np.bool_)
        chosen = np.full(len(told), -1, dtype=np.intp)
        for place, row in enumerate(told):
            picks, tried = judged[row]
            pick = picks[name]
            if isinstance(pick, Priced):
                usd[place, 0], kept[place, 0], chosen[place] = pick.usd, pick.kept, 0
            for column, each in enumerate(tried, start=1):
                usd[place, column], kept[place, column] = each.usd, each.kept
        tasks = OperatorTasks(usd, kept, np.array([groups[row] for row in told], dtype=np.str_))
        found[name] = replace(operator_figures(tasks, chosen), unknown=len(judged) - len(told))
    return found
