"""How many replicas each option needs: which candidates to look at, without looking at all of them.

Separate from `selection`, which chooses among what was looked at. Three ways: where the cheapest is wanted and more
replicas never cost less, the fewest replicas that perform are found by growing strides and halving, all options at a
time; otherwise a grid of numbers is looked at, and the numbers around the best of them; and where a person asks for a
number of replicas, the most that the limits leave of it are found by halving above what the grid shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metainf.assessment import Assessment, assess
from metainf.candidates import Candidate, SizedOption
from metainf.predictors.contract import Predictor
from metainf.rejections import RejectionReason
from metainf.workload import BatchLoad, BudgetKind, Objective, RateLoad, Workload

__all__ = ["search"]

# Options that would cost more than this many times the cheapest one found are not pursued: they neither win nor tell
# a reader of the runners-up anything.
_PURSUED_COST_RATIO = 2.0
_REFINED_OPTIONS = 10


def search(workload: Workload, options: Sequence[SizedOption], predictor: Predictor) -> Assessment:
    """Assess the candidates that decide the choice, or the refusal: a few numbers of replicas of each option."""
    if _fewest_is_cheapest(workload):
        return _Fewest(workload, options, predictor).found()
    return _grid(workload, options, predictor)


def _fewest_is_cheapest(workload: Workload) -> bool:
    """Whether cost only grows with replicas.

    Not so for a batch, nor per token of clients that wait for answers: there twice the replicas, on a node that is
    billed whole, may cost the same per hour and do the work in half the time.
    """
    load = workload.traffic.load
    if workload.objective is not Objective.MINIMIZE_COST or workload.replicas.fixed is not None:
        return False
    if isinstance(load, BatchLoad):
        return False
    return workload.budget.kind is BudgetKind.PER_HOUR or isinstance(load, RateLoad)


@dataclass(slots=True)
class _Bracket:
    """Numbers of replicas of one option: at most `misses` do not perform, `performs` do (None: none found yet)."""

    option: SizedOption
    misses: int
    performs: int | None = None
    stride: int = 1

    @property
    def next(self) -> int | None:
        """The number to look at next; None where there is nothing left to find."""
        if self.performs is None:
            return min(self.misses + self.stride, self.option.most) if self.misses < self.option.most else None
        return (self.misses + self.performs) // 2 if self.performs - self.misses > 1 else None

    def looked(self, replicas: int, performs: bool) -> None:
        """Take in what a look at this number showed: the stride doubles until one performs."""
        if performs:
            self.performs = replicas
        else:
            self.misses = replicas
            self.stride *= 2


class _Fewest:
    """One search for the fewest replicas of each option."""

    def __init__(self, workload: Workload, options: Sequence[SizedOption], predictor: Predictor) -> None:
        self.workload = workload
        self.predictor = predictor
        self.options = options
        self.assessment = assess(workload, [sized.with_replicas(sized.least) for sized in options], predictor)
        self.cheapest = _cheapest(self.assessment)

    def found(self) -> Assessment:
        """Go up from what the load needs in growing strides, then halve, all options at a time."""
        open_ = [
            _Bracket(sized, misses)
            for sized, misses, done in zip(self.options, self._too_few(), self.assessment.performs, strict=True)
            if not done and sized.most > misses
        ]
        while True:
            round_ = self._pursued(open_)
            if not round_:
                return self.assessment
            candidates = [candidate for _, candidate in round_]
            looked = assess(self.workload, candidates, self.predictor)
            for (bracket, candidate), done in zip(round_, looked.performs, strict=True):
                bracket.looked(candidate.replicas, bool(done))
            self.assessment = self.assessment.extended(looked)
            self.cheapest = min(self.cheapest, _cheapest(looked))
            open_ = [bracket for bracket, _ in round_]

    def _too_few(self) -> list[int]:
        """The most replicas of each option that cannot carry the load.

        Twice the replicas carry twice the load (`Predictions.capacity_requests_per_second` is of all together), so the
        least number that does follows from the first look. Clients that wait for answers are no load to be carried.
        """
        least = [sized.least for sized in self.options]
        if not self.assessment.limits or self.assessment.limits[0].reason is not RejectionReason.OVERLOADED:
            return least
        counts = np.array(least, dtype=np.float64)
        needed = np.minimum(
            counts * np.nan_to_num(self.assessment.ratio[:, 0], nan=np.inf), [o.most for o in self.options]
        )
        too_few: list[int] = np.maximum(counts, np.ceil(needed - 1e-9) - 1.0).astype(int).tolist()
        return too_few

    def _pursued(self, brackets: Sequence[_Bracket]) -> list[tuple[_Bracket, Candidate]]:
        round_: list[tuple[_Bracket, Candidate]] = []
        for bracket in brackets:
            count = bracket.next
            if count is None:
                continue
            candidate = bracket.option.with_replicas(count)
            if bracket.performs is not None or float(candidate.cost_per_hour) <= self.cheapest * _PURSUED_COST_RATIO:
                round_.append((bracket, candidate))
        return round_


def _cheapest(assessment: Assessment) -> float:
    """Cost per hour of the cheapest candidate that keeps every limit; infinite where none does."""
    rows = np.flatnonzero(assessment.feasible)
    return min((float(assessment.candidates[row].cost_per_hour) for row in rows), default=float("inf"))


def _grid(workload: Workload, options: Sequence[SizedOption], predictor: Predictor) -> Assessment:
    """Look at a grid of numbers, then at those around the best options, and around the cheapest that perform."""
    assessment = assess(workload, [c for sized in options for c in sized.grid()], predictor)
    fixed = workload.replicas.fixed is not None
    if fixed and assessment.feasible.any():
        return _most_allowed(assessment, options, predictor)
    for order in (_best_first, Assessment.cheapest_performing):  # the second for the budget that a refusal names
        finer = _between_grid_points(assessment, order(assessment), options)
        if finer:
            assessment = assessment.extended(assess(workload, finer, predictor))
        if assessment.feasible.any():
            return _most_allowed(assessment, options, predictor) if fixed else assessment
    return assessment


def _most_allowed(assessment: Assessment, options: Sequence[SizedOption], predictor: Predictor) -> Assessment:
    """Find the most replicas that keep every limit, of whichever option, and look at that number of every option.

    The numbers of an option that keep every limit lie side by side, since a limit that more replicas break (the budget)
    stays broken by still more. So what is left to find lies below the least number that is known to be too many.
    """
    most = max(assessment.candidates[row].replicas for row in np.flatnonzero(assessment.feasible))
    too_many = _too_many(assessment)
    while True:
        open_ = [sized for sized in options if too_many.get(id(sized.option), 0) - most > 1]
        if not open_:
            break
        looked = assess(
            assessment.workload,
            [sized.with_replicas((too_many[id(sized.option)] + most) // 2) for sized in open_],
            predictor,
        )
        for candidate, keeps in zip(looked.candidates, looked.feasible, strict=True):
            if keeps:
                most = max(most, candidate.replicas)
            else:
                too_many[id(candidate.option)] = candidate.replicas
        assessment = assessment.extended(looked)
    seen = {id(candidate.option) for candidate in assessment.candidates if candidate.replicas == most}
    missing = [
        sized.with_replicas(most)
        for sized in options
        if sized.least <= most <= sized.most and id(sized.option) not in seen
    ]
    return assessment.extended(assess(assessment.workload, missing, predictor)) if missing else assessment


def _too_many(assessment: Assessment) -> dict[int, int]:
    """The least number of each option that is above one that keeps every limit and does not keep them itself."""
    counts: dict[int, list[tuple[int, bool]]] = {}
    for candidate, keeps in zip(assessment.candidates, assessment.feasible, strict=True):
        counts.setdefault(id(candidate.option), []).append((candidate.replicas, bool(keeps)))
    found: dict[int, int] = {}
    for option, looked in counts.items():
        most = max((count for count, keeps in looked if keeps), default=None)
        above = [count for count, _ in looked if most is not None and count > most]
        if above:
            found[option] = min(above)
    return found


def _best_first(assessment: Assessment) -> list[int]:
    """Rows that keep every limit by the objective, then the others by how far they miss."""
    keeps = assessment.feasible
    by_objective = [int(row) for row in np.argsort(assessment.objective, kind="stable") if keeps[row]]
    return by_objective + [int(row) for row in np.argsort(assessment.worst_ratio, kind="stable") if not keeps[row]]


def _between_grid_points(
    assessment: Assessment, order: Sequence[int], options: Sequence[SizedOption]
) -> list[Candidate]:
    """Candidates between the points of the grid, around the best options."""
    sized = {id(each.option): each for each in options}
    counts: dict[int, list[int]] = {}
    for candidate in assessment.candidates:
        counts.setdefault(id(candidate.option), []).append(candidate.replicas)
    finer: list[Candidate] = []
    seen: set[int] = set()
    for row in order:
        candidate = assessment.candidates[row]
        key = id(candidate.option)
        if key in seen:
            continue
        seen.add(key)
        have = sorted(counts[key])
        at = have.index(candidate.replicas)
        below = have[at - 1] if at > 0 else candidate.replicas - 1
        above = have[at + 1] if at + 1 < len(have) else candidate.replicas
        finer.extend(sized[key].with_replicas(n) for n in range(below + 1, above) if n not in have)
        if len(seen) == _REFINED_OPTIONS:
            break
    return finer
