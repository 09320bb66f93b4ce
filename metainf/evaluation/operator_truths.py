"""What replicas of an option truly come to for a workload, simulated when it is asked for, and what is told of one.

Separate from the study (`operator_study`), which lets the operator choose among options: this is the truth that its
choices are held against, and the form in which that is kept.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from metainf.candidates import Option
from metainf.corpus.measuring import measured_task
from metainf.corpus.replicas import Infeasible, replica_of
from metainf.corpus.task import Task
from metainf.corpus.worlds import StepOracle
from metainf.evaluation.budgets import closed_loop_usd
from metainf.evaluation.promises import PROMISE_COLUMNS, keeps_promises
from metainf.measurements import Measurement, Purpose
from metainf.workload import BatchLoad, Budget, ConcurrencyLoad, RateLoad

__all__ = ["Judged", "Priced", "Truth", "Unknown", "facts_of", "judged_of"]

_MOST_REPLICAS = 64
_NOT_KNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Priced:
    """A number of replicas of one option: USD in the unit of the budget, and whether it keeps every limit."""

    usd: float
    kept: bool


class Unknown:
    """In place of a price: the world knows nothing of the option."""


_UNKNOWN = Unknown()


Judged = tuple[Mapping[str, Priced | Unknown | None], Sequence[Priced]]
"""What each predictor chose, None where it refused, and everything that was simulated."""


def facts_of(judged: Judged | None) -> dict[str, Any]:
    """As JSON has it; None is a workload that nobody can be asked about."""
    if judged is None:
        return {"asked": False}
    chosen, tried = judged
    return {
        "asked": True,
        "chosen": {name: _choice_fact(each) for name, each in chosen.items()},
        "tried": [_priced_fact(each) for each in tried],
    }


def judged_of(facts: Mapping[str, Any]) -> Judged | None:
    """As `facts_of` told it; KeyError, TypeError or ValueError where it did not."""
    if not facts["asked"]:
        return None
    chosen = {str(name): _choice_of(each) for name, each in dict(facts["chosen"]).items()}
    return chosen, [_priced_of(each) for each in facts["tried"]]


def _choice_fact(choice: Priced | Unknown | None) -> list[float | bool] | str | None:
    if isinstance(choice, Priced):
        return _priced_fact(choice)
    return None if choice is None else _NOT_KNOWN


def _priced_fact(priced: Priced) -> list[float | bool]:
    return [float(priced.usd), bool(priced.kept)]


def _choice_of(fact: Any) -> Priced | Unknown | None:
    if fact is None:
        return None
    return _UNKNOWN if fact == _NOT_KNOWN else _priced_of(fact)


def _priced_of(fact: Any) -> Priced:
    usd, kept = fact
    return Priced(float(usd), bool(kept))


class Truth:
    """What replicas of options come to in the world, each simulated once."""

    def __init__(self, task: Task, oracle: StepOracle, budget: Budget) -> None:
        self.task = task
        self.oracle = oracle
        self.most_usd = float(budget.amount)
        self._scores: dict[tuple[str, str, str, int], Measurement | Unknown | None] = {}

    def of(self, option: Option, replicas: int) -> Priced | Unknown:
        """So many replicas, which share the load evenly."""
        per_hour = float(option.room.cost_per_hour(replicas))
        load = self.task.traffic.load
        score = self._score(option, 1 if isinstance(load, RateLoad) else replicas)
        if isinstance(score, Unknown):
            return score
        if score is None:
            return Priced(per_hour, False)
        if isinstance(load, RateLoad):
            return self._priced(per_hour, _rate(option, score) * replicas >= load.requests_per_second)
        if isinstance(load, BatchLoad):
            makespan_s = score.makespan_s or math.inf
            return self._priced(per_hour * makespan_s / 3600.0, _keeps(self.task, score))
        tokens = score.output_tokens or self.task.traffic.output_tokens.mean_tokens
        usd = closed_loop_usd(per_hour, load.concurrency, score.e2e_mean_s, tokens)
        return self._priced(usd, _keeps(self.task, score))

    def _priced(self, usd: float, performs: bool) -> Priced:
        return Priced(usd, performs and usd <= self.most_usd)

    def cheapest(self, option: Option) -> Priced | None:
        """The cheapest number of replicas that keeps every limit; None where none of those tried does, or is known."""
        load = self.task.traffic.load
        if isinstance(load, RateLoad):
            score = self._score(option, 1)
            rate = _rate(option, score) if isinstance(score, Measurement) else 0.0
            count = math.ceil(load.requests_per_second / rate - 1e-9) if rate > 0.0 else 0
            found = self.of(option, count) if 0 < count <= min(_MOST_REPLICAS, option.room.replicas) else None
            return found if isinstance(found, Priced) and found.kept else None
        most = min(_MOST_REPLICAS, option.room.replicas)
        most = min(most, load.concurrency if isinstance(load, ConcurrencyLoad) else load.requests)
        kept: list[Priced] = []
        count = 1
        while count <= most:
            found = self.of(option, count)
            if isinstance(found, Unknown):
                break
            if found.kept:
                kept.append(found)
                if not isinstance(load, BatchLoad) or len(kept) > 1:
                    break
            if math.isfinite(found.usd) and found.usd > self.most_usd:
                break  # twice the replicas do not halve the time, so they only cost more
            count *= 2
        return min(kept, key=lambda each: each.usd, default=None)

    def _score(self, option: Option, replicas: int) -> Measurement | Unknown | None:
        """What so many replicas come to; None where facts forbid the option."""
        key = (option.pool.name, option.layout.name, option.method.name, replicas)
        if key not in self._scores:
            self._scores[key] = self._simulated(option, replicas)
        return self._scores[key]

    def _simulated(self, option: Option, replicas: int) -> Measurement | Unknown | None:
        load = self.task.traffic.load
        if isinstance(load, ConcurrencyLoad):
            load = ConcurrencyLoad(math.ceil(load.concurrency / replicas))
        elif isinstance(load, BatchLoad):
            load = replace(load, requests=math.ceil(load.requests / replicas))
        task = replace(
            self.task,
            accelerator=option.pool.accelerator.name,
            layout=option.layout,
            traffic=replace(self.task.traffic, load=load),
            max_model_len=option.replica.settings.max_model_len,
        )
        if isinstance(replica_of(task, option.method), Infeasible):
            return None
        rows = measured_task(task, self.oracle, repeats=(0,), methods=(option.method,))
        return next((row for row in rows if row.purpose == Purpose.SCORE), _UNKNOWN)


def _rate(option: Option, score: Measurement) -> float:
    """The highest rate of one replica at which every promise holds."""
    return (score.performance or 0.0) * option.layout.accelerators


def _keeps(task: Task, score: Measurement) -> bool:
    return keeps_promises(task, {name: getattr(score, name) for name in PROMISE_COLUMNS})
