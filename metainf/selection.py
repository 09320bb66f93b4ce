"""Choose the best candidate inside every limit, or say which limit binds.

Separate from `candidates` (what is possible) and from the operator (what is done about it). Pure: same inputs, same
answer; ties are broken in writing. "None" is an answer: `NoSelection`, with a reason for every candidate.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_UP, Decimal

import numpy as np

from metainf.architecture import ModelArchitecture
from metainf.assessment import Assessment, assess
from metainf.binding_limits import LIMIT_OF_REJECTION, BindingLimit
from metainf.candidates import Candidate, CandidateName, Enumeration, enumerate_candidates
from metainf.placement import empty_node, max_replicas
from metainf.pools import NodePool
from metainf.predictors.contract import Predictor, PredictorIdentity
from metainf.rejections import Rejection, RejectionCount, RejectionReason, count_rejections
from metainf.running import Running, running_candidate, why_not_anew
from metainf.search import search
from metainf.workload import Budget, BudgetKind, Workload

__all__ = ["NoSelection", "Request", "Scored", "Selection", "select"]

TIE_RATIO = 0.02  # candidates this close in the objective are equal; DESIGN: below the noise of any measurement
_ALTERNATIVES = 10
_NO_POOL = (
    "no node pool with accelerators is known; an AcceleratorPool with accelerator.count 0 lets nodes serve on CPUs"
)


@dataclass(frozen=True, slots=True)
class Request:
    """One question to the selection.

    `pools` show what is free for this workload: what it holds itself counts as free. `only` restricts the answer to
    one candidate (a pin). `current` is what runs now: it is assessed beside the others, never preferred here; `running`
    is what is seen of its pods, None where nothing is.
    """

    workload: Workload
    architecture: ModelArchitecture
    pools: tuple[NodePool, ...]
    engine_version: str
    only: CandidateName | None = None
    current: CandidateName | None = None
    running: Running | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A candidate with what is predicted of it. `broken` is the first limit that it breaks, or None.

    `barred`: it runs, and could not be started now; for the reason given.
    """

    candidate: Candidate
    assessment: Assessment
    row: int
    barred: Rejection | None = None

    @property
    def broken(self) -> Rejection | None:
        """The first limit that the candidate breaks, in the catalogue's order."""
        return self.assessment.rejection(self.row)

    @property
    def objective_value(self) -> float:
        """What the objective minimises: USD, seconds, or minus requests per second."""
        return float(self.assessment.objective[self.row])


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The chosen candidate, the runners-up, and why not the rest.

    `resized` is the best candidate that differs from what runs in its number of replicas alone.
    """

    chosen: Scored
    alternatives: tuple[Scored, ...]
    rejections: tuple[RejectionCount, ...]
    current: Scored | None
    considered: int
    predictor: PredictorIdentity
    resized: Scored | None = None


@dataclass(frozen=True, slots=True, eq=False)
class NoSelection:
    """Nothing keeps every limit: which limit binds, and what would work.

    `cheapest_budget` is in the unit of the workload's own budget, rounded up to the cent; None where no budget would
    do. It works with what is free now, or, where no budget does, once all nodes are. `waiting_for` is the candidate
    that would be chosen if its pool's nodes were free.
    """

    limit: BindingLimit
    message: str
    cheapest_budget: Budget | None
    nearest: tuple[Scored, ...]
    rejections: tuple[RejectionCount, ...]
    current: Scored | None
    considered: int
    predictor: PredictorIdentity
    waiting_for: Scored | None = None


def select(request: Request, predictor: Predictor) -> Selection | NoSelection:
    """Choose by the request's objective among the candidates that keep every limit at the asked confidence.

    Ties within 2 % go to the cheaper, then the simpler method, then the name.
    """
    outcome = _select_within(request, predictor)
    if isinstance(outcome, Selection) or not request.pools:
        return outcome
    emptied = tuple(_emptied(pool) for pool in request.pools)
    if emptied == request.pools:
        return outcome
    ideal = _select_within(replace(request, pools=emptied, current=None), predictor)
    if isinstance(ideal, NoSelection):
        now, empty = outcome.cheapest_budget, ideal.cheapest_budget
        if now is None or not now.amount.is_finite():
            return replace(ideal, current=outcome.current)
        # The budget that is named has to work at once; that another one would do some day is said beside it.
        if empty is not None and empty.amount < now.amount:
            later = f"{outcome.message}; with all nodes free {empty.amount} {empty.unit} would do"
            return replace(outcome, message=later)
        return outcome
    wanted = ideal.chosen.candidate
    pool = next(p for p in request.pools if p.name == wanted.option.pool.name)
    room = max_replicas(pool, wanted.option.request)
    message = (
        f"{wanted.name} keeps every limit but the pool has room for {room} of its {wanted.replicas} "
        f"replica{'s' if wanted.replicas > 1 else ''} now"
    )
    return replace(outcome, limit=BindingLimit.NO_CAPACITY, message=message, waiting_for=ideal.chosen)


def _emptied(pool: NodePool) -> NodePool:
    return replace(pool, nodes=tuple(empty_node(pool.shape, node.name) for node in pool.nodes))


def _select_within(request: Request, predictor: Predictor) -> Selection | NoSelection:
    enumeration = enumerate_candidates(
        request.workload,
        request.architecture,
        request.pools,
        engine_version=request.engine_version,
        only=request.only,
    )
    assessment = search(request.workload, enumeration.options, predictor)
    current, assessment = _place_current(request, enumeration, assessment, predictor)
    candidates = assessment.candidates
    order = _ranked(assessment)
    keeps = assessment.feasible
    feasible = [row for row in order if keeps[row]]
    if not feasible:
        return _refusal(request, enumeration.rejections, assessment, current, predictor)
    chosen = Scored(candidates[feasible[0]], assessment, feasible[0])
    return Selection(
        chosen=chosen,
        alternatives=_runners_up(assessment, order, chosen),
        rejections=_counted(assessment, enumeration.rejections, feasible, chosen.row),
        current=current,
        considered=len(candidates) + len(enumeration.rejections),
        predictor=predictor.identity,
        resized=_resized(request.current, assessment, feasible),
    )


def _resized(current: CandidateName | None, assessment: Assessment, feasible: Sequence[int]) -> Scored | None:
    if current is None:
        return None
    for row in feasible:
        candidate = assessment.candidates[row]
        if candidate.option.name(current.replicas) == current and candidate.replicas != current.replicas:
            return Scored(candidate, assessment, row)
    return None


def _place_current(
    request: Request, enumeration: Enumeration, assessment: Assessment, predictor: Predictor
) -> tuple[Scored | None, Assessment]:
    """What runs now, looked at where the search did not.

    Apart from the rest, so that it is not chosen, where its replicas are too few or many or it could not start now.
    """
    current = request.current
    if current is None:
        return None, assessment
    for row, candidate in enumerate(assessment.candidates):
        if candidate.name == current:
            return Scored(candidate, assessment, row), assessment
    for sized in enumeration.options:
        if sized.option.name(current.replicas) == current and current.replicas <= sized.option.room.replicas:
            candidate = sized.with_replicas(current.replicas)
            looked = assess(request.workload, [candidate], predictor)
            if not sized.least <= current.replicas <= sized.most:
                return Scored(candidate, looked, 0), assessment
            extended = assessment.extended(looked)
            return Scored(candidate, extended, len(assessment.candidates)), extended
    return _in_place(request, enumeration, predictor), assessment


def _in_place(request: Request, enumeration: Enumeration, predictor: Predictor) -> Scored | None:
    """What runs now where it could not be started any more; a pin to another asks about that one alone."""
    running = request.running
    if running is None or request.only not in (None, running.name):
        return None
    candidate = running_candidate(
        request.workload, request.architecture, request.pools, running, engine_version=request.engine_version
    )
    if candidate is None:
        return None
    looked = assess(request.workload, [candidate], predictor)
    return Scored(candidate, looked, 0, why_not_anew(candidate, enumeration.rejections))


def _ranked(assessment: Assessment) -> list[int]:
    """Rows, best first: those that keep every limit by the objective, then the others by how far they miss."""
    keeps = assessment.feasible
    missed = [int(row) for row in np.argsort(assessment.worst_ratio, kind="stable") if not keeps[row]]
    return _by_objective(assessment, [int(row) for row in np.flatnonzero(keeps)]) + missed


def _by_objective(assessment: Assessment, kept: Sequence[int]) -> list[int]:
    """Rows that keep every limit, the one to choose first."""
    objective = assessment.objective
    complexity: dict[str, int] = {}

    def tie_key(row: int) -> tuple[float, int, CandidateName]:
        candidate = assessment.candidates[row]
        method = candidate.option.method
        if method.name not in complexity:
            complexity[method.name] = method.complexity
        return float(assessment.cost[row]), complexity[method.name], candidate.name

    def ranked(rows: Sequence[int]) -> list[int]:
        found: list[int] = []
        order = sorted(rows, key=lambda row: float(objective[row]))
        values = [float(objective[row]) for row in order]
        while len(found) < len(order):
            start = len(found)
            tied = bisect_right(values, values[start] + abs(values[start]) * TIE_RATIO, start)
            # The first is always taken: a predictor that answers NaN must not hold the loop.
            found.extend(sorted(order[start : max(tied, start + 1)], key=tie_key))
        return found

    if assessment.workload.replicas.fixed is None:
        return ranked(kept)
    # A person's own number of replicas goes before the objective: as many of them as the limits leave.
    counts = sorted({assessment.candidates[row].replicas for row in kept}, reverse=True)
    groups = ([row for row in kept if assessment.candidates[row].replicas == count] for count in counts)
    return [row for group in groups for row in ranked(group)]


def _runners_up(assessment: Assessment, order: Sequence[int], chosen: Scored | None) -> tuple[Scored, ...]:
    """The best of each other pool x layout x method, best first."""
    seen = {id(chosen.candidate.option)} if chosen is not None else set()
    found: list[Scored] = []
    for row in order:
        candidate = assessment.candidates[row]
        if id(candidate.option) not in seen:
            seen.add(id(candidate.option))
            found.append(Scored(candidate, assessment, row))
            if len(found) == _ALTERNATIVES:
                break
    return tuple(found)


def _counted(
    assessment: Assessment, earlier: Sequence[Rejection], kept: Sequence[int], chosen_row: int | None
) -> tuple[RejectionCount, ...]:
    """All rejections by reason; a candidate that keeps every limit and is not chosen counts as BetterCandidate."""
    counts = [*count_rejections(earlier), *assessment.rejection_counts()]
    passed_over = [row for row in kept if row != chosen_row]
    if passed_over:
        name = assessment.candidates[passed_over[0]].name
        cost = float(assessment.cost[passed_over[0]])
        amount = f"{cost:.2f}" if cost >= 1.0 else f"{cost:.3g}"
        detail = f"{name} keeps every limit at {amount} {assessment.cost_unit}"
        nearest = Rejection(
            RejectionReason.BETTER_CANDIDATE, name.pool, detail, name.layout, name.method, name.replicas
        )
        counts.append(RejectionCount(RejectionReason.BETTER_CANDIDATE, len(passed_over), nearest))
    return tuple(counts)


def _refusal(
    request: Request,
    earlier: Sequence[Rejection],
    assessment: Assessment,
    current: Scored | None,
    predictor: Predictor,
) -> NoSelection:
    # What only costs too much is nearest, however far the budget is from it: it is what a larger one would buy.
    order = list(dict.fromkeys((*_within_reach(assessment), *assessment.by_performance())))
    limit, message, budget = _binding(request, earlier, assessment, order)
    return NoSelection(
        limit=limit,
        message=message,
        cheapest_budget=budget,
        nearest=_runners_up(assessment, order, None),
        rejections=_counted(assessment, earlier, (), None),
        current=current,
        considered=len(assessment.candidates) + len(earlier),
        predictor=predictor.identity,
    )


def _within_reach(assessment: Assessment) -> list[int]:
    """Rows that keep every limit but the budget: first what the least budget would buy, then the cheapest first."""
    performing = assessment.cheapest_performing()
    if not performing:
        return []
    least = float(_budget_for(assessment, performing[0]).amount)
    bought = [row for row in performing if float(assessment.budget_cost[row]) <= least]
    return [*_by_objective(assessment, bought), *performing]


def _budget_for(assessment: Assessment, row: int) -> Budget:
    """The least budget that the candidate keeps, rounded up."""
    budget = assessment.workload.budget
    return replace(budget, amount=_rounded_up(float(assessment.budget_cost[row]), budget.kind))


def _binding(
    request: Request, earlier: Sequence[Rejection], assessment: Assessment, order: Sequence[int]
) -> tuple[BindingLimit, str, Budget | None]:
    """The limit, a sentence, and what budget would do; `order` are the candidates, the nearest first."""
    if not assessment.candidates:
        if request.only is not None and not any(r.method or r.layout for r in earlier):
            return BindingLimit.NO_MATCHING_POOL, f"no candidate is {request.only}", None
        if not earlier:
            return BindingLimit.NO_MATCHING_POOL, _NO_POOL, None
        reasons = list(RejectionReason)
        last = max(earlier, key=lambda r: (reasons.index(r.reason), -r.shortfall))
        return LIMIT_OF_REJECTION[last.reason], last.detail, None
    nearest = order[0]
    if assessment.performs[nearest]:
        budget, needed = request.workload.budget, _budget_for(assessment, nearest)
        message = (
            f"cheapest candidate that meets {_promises(request.workload)} costs {needed.amount} {budget.unit}; "
            f"the budget is {budget.amount} {budget.unit} ({assessment.candidates[nearest].name})"
        )
        return BindingLimit.BUDGET_TOO_LOW, message, needed
    rejection = assessment.rejection(nearest)
    if rejection is None:
        raise AssertionError("a candidate that breaks a limit has a rejection")
    return LIMIT_OF_REJECTION[rejection.reason], f"nearest candidate: {rejection.detail}", None


def _promises(workload: Workload) -> str:
    if not workload.slo.bounds:
        return "the load"
    return ", ".join(f"{bound} {_duration(bound.bound_s)}" for bound in workload.slo.bounds)


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:g}ms" if seconds < 1 else f"{seconds:g}s"


def _rounded_up(amount: float, kind: BudgetKind) -> Decimal:
    step = Decimal("0.0001") if kind is BudgetKind.PER_MILLION_TOKENS else Decimal("0.01")
    if not math.isfinite(amount):
        return Decimal("Infinity")
    return Decimal(repr(amount)).quantize(step, rounding=ROUND_UP)
