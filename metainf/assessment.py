"""Hold predictions against the limits of a workload, all candidates at once.

Separate from `selection`: this says for every candidate which limit breaks and by how much; that chooses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from metainf.candidates import Candidate
from metainf.predictors.contract import (
    LATENCY_METRICS,
    STATISTICS,
    BoolArray,
    FloatArray,
    Predictions,
    Predictor,
    Question,
)
from metainf.rejections import Rejection, RejectionCount, RejectionReason
from metainf.workload import (
    BatchLoad,
    Budget,
    BudgetKind,
    ConcurrencyLoad,
    LatencyMetric,
    Objective,
    RateLoad,
    Statistic,
    Workload,
)

__all__ = ["Assessment", "LimitColumn", "assess", "uncertain_limits"]

_SLACK = 1.0 + 1e-9


@dataclass(frozen=True, slots=True)
class LimitColumn:
    """One limit of the workload: how it is named when broken, and the bound itself."""

    reason: RejectionReason
    label: str
    bound: float
    unit: str


_MOST_DIGITS = 6  # more than usual


@dataclass(frozen=True, slots=True, eq=False)
class Assessment:
    """Every candidate against every limit.

    Attributes
    ----------
    ratio : array of shape (n_candidates, n_limits)
        Needed / allowed at the workload's confidence; above 1 the limit is broken. The budget is the last column.
    log_sd : array of shape (n_candidates, n_limits)
        Standard deviation of the logarithm of what each limit rests on, the predictor's caution in it; 0 where it is
        known.
    objective : array of shape (n_candidates,)
        What the objective minimises, at the median prediction.
    cost : array of shape (n_candidates,)
        Cost that breaks ties: per hour, per million output tokens or in total, as the objective counts it.
    budget_cost : array of shape (n_candidates,)
        Cost in the budget's own unit at the workload's confidence.
    z : float
        Normal quantile at which the limits are judged.
    """

    workload: Workload
    candidates: tuple[Candidate, ...]
    predictions: Predictions
    limits: tuple[LimitColumn, ...]
    ratio: FloatArray
    log_sd: FloatArray
    objective: FloatArray
    cost: FloatArray
    budget_cost: FloatArray
    z: float

    @property
    def cost_unit(self) -> str:
        """Of `cost`, such as `USD/h`; pools with a price in another currency are rejected before."""
        return replace(self.workload.budget, kind=_cost_kind(self.workload)).unit

    @property
    def feasible(self) -> BoolArray:
        """Whether each candidate keeps every limit; shape (n_candidates,)."""
        keeps: BoolArray = np.all(self.ratio <= _SLACK, axis=1)
        return keeps

    @property
    def performs(self) -> BoolArray:
        """Whether each candidate keeps every limit but the budget; shape (n_candidates,)."""
        keeps: BoolArray = np.all(self.ratio[:, :-1] <= _SLACK, axis=1)
        return keeps

    @property
    def worst_ratio(self) -> FloatArray:
        """Largest of needed / allowed; shape (n_candidates,)."""
        worst: FloatArray = self.ratio.max(axis=1)
        return worst

    @property
    def performance_ratio(self) -> FloatArray:
        """Largest of needed / allowed, the budget left out; shape (n_candidates,)."""
        if self.ratio.shape[1] == 1:
            return np.zeros(self.ratio.shape[0])
        worst: FloatArray = self.ratio[:, :-1].max(axis=1)
        return worst

    def rejection(self, row: int) -> Rejection | None:
        """The limit that this candidate breaks worst among those of the first broken kind, or None."""
        broken = np.flatnonzero(self.ratio[row] > _SLACK)
        if broken.size == 0:
            return None
        first = self.limits[int(broken[0])].reason
        same = [int(i) for i in broken if self.limits[int(i)].reason is first]
        return self._rejected(row, max(same, key=lambda i: float(self.ratio[row, i])))

    def _rejected(self, row: int, column: int) -> Rejection:
        reason, name = self.limits[column].reason, self.candidates[row].name
        shortfall = float(self.ratio[row, column]) - 1.0
        detail = self._detail(row, column)
        return Rejection(reason, name.pool, detail, name.layout, name.method, name.replicas, shortfall)

    def cheapest_performing(self) -> list[int]:
        """Rows that keep every limit but the budget, the cheapest first."""
        performs = self.performs
        return [int(row) for row in np.argsort(self.budget_cost, kind="stable") if performs[row]]

    def by_performance(self) -> list[int]:
        """Rows by how far they are from keeping every limit but the budget, the nearest first; of equals the cheaper.

        Where a load is not carried latencies have no bound: nearest is then what carries most of it.
        """
        return [int(row) for row in np.lexsort((self.budget_cost, self.ratio[:, 0], self.performance_ratio))]

    def over_budget(self, row: int) -> Rejection | None:
        """By how much the candidate breaks the budget, whatever else it breaks; None where it keeps it."""
        return self._rejected(row, len(self.limits) - 1) if self.ratio[row, -1] > _SLACK else None

    def rejection_counts(self) -> tuple[RejectionCount, ...]:
        """The rejections of all candidates, counted by the first kind of limit that each breaks."""
        broken = self.ratio > _SLACK
        first = np.where(broken.any(axis=1), broken.argmax(axis=1), -1)
        counts = []
        for reason in dict.fromkeys(limit.reason for limit in self.limits):
            columns = [i for i, limit in enumerate(self.limits) if limit.reason is reason]
            rows = np.flatnonzero(np.isin(first, columns))
            if rows.size == 0:
                continue
            nearest = int(rows[int(np.argmin(self.ratio[rows][:, columns].max(axis=1)))])
            rejection = self.rejection(nearest)
            if rejection is not None:
                counts.append(RejectionCount(reason, int(rows.size), rejection))
        return tuple(counts)

    def _detail(self, row: int, column: int) -> str:
        limit, ratio = self.limits[column], float(self.ratio[row, column])
        overloaded = limit.reason is RejectionReason.OVERLOADED
        value = limit.bound / ratio if overloaded else limit.bound * ratio
        shown, bound = _apart(value, limit.bound, limit.unit)
        name = self.candidates[row].name
        confidence = f"at confidence {self.workload.confidence:g}"
        if overloaded:
            carried = shown if np.isfinite(ratio) else "nothing"
            return f"{name} carries {carried} {confidence}, the load is {bound}"
        if self.log_sd[row, column] == 0:
            return f"{limit.label} of {name} is {shown}, the limit is {bound}"
        return f"{limit.label} of {name} is up to {shown} {confidence}, the limit is {bound}"

    def extended(self, other: "Assessment") -> "Assessment":
        """This assessment with the rows of another one of the same workload after its own."""
        return Assessment(
            self.workload,
            self.candidates + other.candidates,
            self.predictions.followed_by(other.predictions),
            self.limits,
            np.concatenate([self.ratio, other.ratio]),
            np.concatenate([self.log_sd, other.log_sd]),
            np.concatenate([self.objective, other.objective]),
            np.concatenate([self.cost, other.cost]),
            np.concatenate([self.budget_cost, other.budget_cost]),
            self.z,
        )


def _apart(value: float, bound: float, unit: str) -> tuple[str, str]:
    """Both figures, with more digits where they would read alike."""
    for more in range(_MOST_DIGITS):
        shown = _amount(value, unit, more), _amount(bound, unit, more)
        if shown[0] != shown[1]:
            break
    return shown


def _amount(value: float, unit: str, more: int) -> str:
    """A figure as a person writes it: 35.1ms and not 0.0351s; `more` digits than usual."""
    if not np.isfinite(value):
        return "unbounded"
    if unit == "s":
        for seconds, name in ((3600.0, "h"), (60.0, "m")):
            if value >= 2 * seconds:
                return f"{value / seconds:.{3 + more}g}{name}"
        return f"{value:.{3 + more}g}s" if value >= 1.0 else f"{value * 1000:.{3 + more}g}ms"
    return f"{value:.{4 + more}g}{unit}"


def uncertain_limits(workload: Workload) -> int:
    """Number of the workload's limits that rest on a prediction.

    The price per hour is known; a rate's tokens are what was offered, so there a budget per million tokens is too.
    """
    load = workload.traffic.load
    count = len(workload.slo.bounds)
    count += isinstance(load, RateLoad | BatchLoad)  # carrying the load; the deadline
    return max(1, count + _cost_is_uncertain(workload))


def _cost_is_uncertain(workload: Workload) -> bool:
    kind = workload.budget.kind
    if kind is BudgetKind.PER_MILLION_TOKENS:
        return not isinstance(workload.traffic.load, RateLoad)
    return kind is BudgetKind.TOTAL


def assess(workload: Workload, candidates: Sequence[Candidate], predictor: Predictor) -> Assessment:
    """Predict every candidate in one batch and hold it against the workload's limits.

    The confidence is for all limits together: each is judged at 1 - (1 - confidence) / limits (Bonferroni), which
    holds however their errors depend on each other. Spreads are those for choosing: each times its caution.
    """
    traffic = workload.traffic
    questions = [Question(c.option.replica, traffic, c.replicas) for c in candidates]
    predictions = predictor.predict(questions)
    chosen_by = predictions.for_choosing()
    z = NormalDist().inv_cdf(1.0 - (1.0 - workload.confidence) / uncertain_limits(workload))
    per_hour = np.array([float(c.cost_per_hour) for c in candidates], dtype=np.float64)
    limits = _performance_limits(workload, chosen_by, z)
    budget_cost = _cost(workload, per_hour, chosen_by, workload.budget.kind, z)
    budget_sd = chosen_by.throughput_log_sd if _cost_is_uncertain(workload) else np.zeros_like(per_hour)
    limits.append((_budget_column(workload.budget), budget_cost / float(workload.budget.amount), budget_sd))
    cost = _cost(workload, per_hour, predictions, _cost_kind(workload), 0.0)
    return Assessment(
        workload,
        tuple(candidates),
        predictions,
        tuple(column for column, _, _ in limits),
        np.stack([ratio for _, ratio, _ in limits], axis=1),
        np.stack([sd for _, _, sd in limits], axis=1),
        _objective(workload, predictions, cost),
        cost,
        budget_cost,
        z,
    )


_Limit = tuple[LimitColumn, FloatArray, FloatArray]
"""A limit, needed / allowed for each candidate, and the standard deviation of its logarithm."""


def _performance_limits(workload: Workload, predictions: Predictions, z: float) -> list[_Limit]:
    load = workload.traffic.load
    limits: list[_Limit] = []
    if isinstance(load, RateLoad):
        carried = predictions.capacity_requests_per_second * np.exp(-z * predictions.capacity_log_sd)
        column = LimitColumn(RejectionReason.OVERLOADED, "load", load.requests_per_second, " requests/s")
        with np.errstate(divide="ignore"):
            limits.append((column, load.requests_per_second / carried, predictions.capacity_log_sd))
    upper = predictions.latency_at(z)
    for bound in workload.slo.bounds:
        at = (slice(None), LATENCY_METRICS.index(bound.metric), STATISTICS.index(bound.statistic))
        column = LimitColumn(RejectionReason.SLO_MISSED, str(bound), bound.bound_s, "s")
        limits.append((column, upper[at] / bound.bound_s, predictions.latency_log_sd[at]))
    if isinstance(load, BatchLoad):
        column = LimitColumn(RejectionReason.DEADLINE_MISSED, "makespan", load.deadline_s, "s")
        limits.append((column, predictions.makespan_at(z) / load.deadline_s, predictions.throughput_log_sd))
    return limits


def _budget_column(budget: Budget) -> LimitColumn:
    return LimitColumn(RejectionReason.OVER_BUDGET, "cost", float(budget.amount), f" {budget.unit}")


def _cost_kind(workload: Workload) -> BudgetKind:
    """How the objective counts cost: a batch in total, otherwise as the budget does."""
    if isinstance(workload.traffic.load, BatchLoad):
        return BudgetKind.TOTAL
    return workload.budget.kind


def _cost(workload: Workload, per_hour: FloatArray, predictions: Predictions, kind: BudgetKind, z: float) -> FloatArray:
    """Cost of each candidate in the unit of `kind`, at the quantile `z`; shape (n_candidates,)."""
    if kind is BudgetKind.TOTAL:
        return per_hour * predictions.makespan_at(z) / 3600.0
    if kind is BudgetKind.PER_HOUR:
        return per_hour
    load = workload.traffic.load
    if isinstance(load, RateLoad):
        offered = load.requests_per_second * workload.traffic.output_tokens.mean_tokens
        tokens = np.full_like(per_hour, offered)
    else:
        tokens = predictions.output_tokens_per_second_at(-z)
    with np.errstate(divide="ignore"):
        return per_hour / (tokens * 3600.0) * 1e6


def _objective(workload: Workload, predictions: Predictions, cost: FloatArray) -> FloatArray:
    if workload.objective is Objective.MINIMIZE_COST:
        return cost
    load = workload.traffic.load
    if workload.objective is Objective.MAXIMIZE_THROUGHPUT:
        if isinstance(load, RateLoad):
            return -predictions.capacity_requests_per_second
        if isinstance(load, ConcurrencyLoad):
            return -predictions.output_tokens_per_second
        return predictions.makespan_s
    bounds = workload.slo.bounds
    if not bounds:
        return predictions.latency_s[:, LATENCY_METRICS.index(LatencyMetric.E2E), STATISTICS.index(Statistic.P95)]
    shares = [
        predictions.latency_s[:, LATENCY_METRICS.index(b.metric), STATISTICS.index(b.statistic)] / b.bound_s
        for b in bounds
    ]
    largest: FloatArray = np.max(np.stack(shares), axis=0)
    return largest
