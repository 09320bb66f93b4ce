"""The truth about a task: every feasible method of the portfolio in one world under every seed, as rows.

Separate from `runs`, which answers one question about one method, and from the building of a corpus, which is files
and processes.

What a task's rows hold. Rate: one client alone, the capacity, every load that the search for the highest rate asked
for, and the rate itself; of the default in the first repeat also fixed shares of its capacity, so that latencies over
the whole range of loads can be learnt. Concurrency and batch: the load that is declared.

How the highest rate is found. Every method is searched with the same 3,000 requests after a warm-up. Where the interval
of the latency that decides is under 5 % then, that is its rate. Otherwise the default is searched again by runs that
grow until it is, and the other methods' rates are scaled by what that changed: common random numbers leave in the ratio
of two rates less noise than each of them has. Where the default needs no long runs, a method that does gets its own.
Rejected: long runs for every method. At a tenth of the capacity each takes seconds, for a dozen methods.

Methods that run one request at a time are not searched a rate: they are what the papers compare batches and closed
loops with.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from metainf import __version__
from metainf.corpus.rate_search import Bracket, bracketed_rate, refined_rate
from metainf.corpus.replicas import Infeasible, replica_of, shared_context_tokens
from metainf.corpus.runs import MOST_INTERVAL_RATIO, Outcome, Run, task_seed
from metainf.corpus.task import Task, TrafficKind
from metainf.corpus.traffic import drawn_acceptance
from metainf.corpus.worlds import StepOracle
from metainf.measurements import Measurement, Purpose, Source, as_written
from metainf.methods import Method, portfolio
from metainf.predictors.contract import LATENCY_METRICS, STATISTICS, ReplicaSpec
from metainf.simulator.builder import engine_model
from metainf.speculation import acceptance_ratio, drafting_context_tokens
from metainf.workload import BatchLoad, ConcurrencyLoad

__all__ = ["UTILIZATIONS", "is_known", "measured_task", "methods_of"]

_IDLE_MARGIN = 0.25
"""Beyond this of a few hundred idle requests a promise is taken for broken at any load.

A percentile of so few errs by a tenth; nearer to it the search itself, with thousands, finds no such load.
"""
UTILIZATIONS = (0.3, 0.5, 0.7, 0.85, 0.95)
"""Shares of its capacity at which the default's latencies are taken besides those that the search asks for."""


def measured_task(
    task: Task,
    oracle: StepOracle,
    *,
    repeats: Sequence[int],
    methods: Sequence[Method] | None = None,
    most_methods: int | None = None,
) -> list[Measurement]:
    """All rows of a task in one world, by repeat, then by method; none where the world knows nothing of it.

    An infeasible method has no rows. The default goes first: what it reaches is where the search for the others begins.

    Parameters
    ----------
    most_methods : int, optional
        Only so many of those that have rows: the default and others in an order drawn for the task.
    """
    methods = methods_of(task) if methods is None else methods
    methods = methods if most_methods is None else [methods[0], *_shuffled(methods[1:], task)]
    rows: list[Measurement] = []
    for repeat in repeats:
        anchor = _Anchor()
        runs = (run for run in (_run(task, method, oracle, repeat) for method in methods) if run is not None)
        for run in islice(runs, most_methods):
            rows += _rows(_Rows(run, oracle, repeat, _source_version(oracle, run.replica)), anchor)
    return rows


def _shuffled(methods: Sequence[Method], task: Task) -> list[Method]:
    """In an order of the task's own, the same for its twins, which does not hang on what else is in the portfolio."""
    return sorted(methods, key=lambda each: hashlib.sha256(f"{task.draws_key}/{each.name}".encode()).digest())


def is_known(task: Task, oracle: StepOracle) -> bool:
    """Whether a world knows the task: by its default, with which every task can be served."""
    return _run(task, methods_of(task)[0], oracle, 0) is not None


def methods_of(task: Task) -> tuple[Method, ...]:
    """The methods that are measured on a task, the default first."""
    methods = portfolio(task.engine_version)
    if task.kind is TrafficKind.RATE:
        return tuple(method for method in methods if method.settings.max_num_seqs != 1)
    return methods


def _source_version(oracle: StepOracle, replica: ReplicaSpec) -> str:
    """What made a row: this package, the world, and whose measurements the world has of the replica."""
    source = oracle.source(replica)
    return f"{__version__}+{oracle.version}" + (f", {source}" if source else "")


@dataclass(slots=True)
class _Anchor:
    """What the first method of a repeat found: where others look first, and what long runs changed, if it had any."""

    short: Bracket | None = None
    long_ratio: float | None = None


def _run(task: Task, method: Method, oracle: StepOracle, repeat: int) -> Run | None:
    replica = replica_of(task, method)
    if isinstance(replica, Infeasible):
        return None
    seed = task_seed(task, repeat, predicted=oracle.predicts)
    times = oracle.times(replica, seed)
    if times is None:
        return None
    latent = oracle.latent(replica)
    speculation, repetitiveness = replica.settings.speculation, task.traffic.repetitiveness
    context_tokens = drafting_context_tokens(task.traffic)
    if oracle.predicts and speculation is not None:
        acceptance = acceptance_ratio(speculation, repetitiveness, context_tokens)
    else:
        acceptance = drawn_acceptance(
            speculation,
            repetitiveness,
            seed=seed,
            context_tokens=context_tokens,
            offset_logit=latent.acceptance_offset_logit,
        )
    engine = engine_model(replica, acceptance_ratio=acceptance, kv_ratio=latent.kv_ratio)
    most_tokens = shared_context_tokens(task)
    return Run(task, method, replica, engine, times[0], times[1], seed, most_tokens=most_tokens)


def _rows(of: "_Rows", anchor: _Anchor) -> Iterator[Measurement]:
    """Rows of one run; the last one is its score."""
    load = of.run.task.traffic.load
    if isinstance(load, ConcurrencyLoad):
        found = of.run.closed_loop(load.concurrency)
        yield of.score(found, found.output_tokens_per_second, clients=load.concurrency)
    elif isinstance(load, BatchLoad):
        found = of.run.batch(load.requests)
        performance = 1.0 / found.makespan_s if found.makespan_s > 0.0 else 0.0
        yield of.score(found, performance, batch_requests=load.requests)
    else:
        yield from _rate_rows(of, anchor)


def _rate_rows(of: "_Rows", anchor: _Anchor) -> Iterator[Measurement]:
    idle, idle_margin = of.run.idle()
    saturated, capacity = of.run.capacity()
    yield of.row(Purpose.IDLE, idle, clients=1)
    yield of.row(Purpose.CAPACITY, saturated, stable=False)
    asked: dict[float, Outcome] = {}

    # Loads are told apart as far as rows can say them: a search may come back to within a hair of where it was.
    def short(rate: float) -> float:
        at = as_written(rate)
        outcome, worst = of.run.at_rate(at, until_sure=False)
        asked.setdefault(at, outcome)
        return worst

    def long(rate: float) -> float:
        at = as_written(rate)
        asked[at], worst = of.run.at_rate(at)
        return worst

    best = 0.0
    found = idle
    if idle_margin <= _IDLE_MARGIN and capacity > 0.0:
        bracket = bracketed_rate(short, capacity, near=anchor.short)
        if bracket.low > 0.0:
            low = as_written(bracket.low)
            sure = asked[low].interval_ratio <= MOST_INTERVAL_RATIO
            best = _best_rate(bracket, capacity, anchor, long, sure=sure)
            nearest = min(asked, key=lambda rate: (-asked[rate].requests, abs(rate - best)))
            found = asked[low if sure else nearest]  # above it latencies may scatter widely already
    if of.is_first and capacity > 0.0:
        for share in UTILIZATIONS:
            short(share * capacity)
    for rate in sorted(asked):
        yield of.row(Purpose.LOAD, asked[rate], offered_requests_per_second=rate, utilization=rate / capacity)
    utilization = best / capacity if capacity > 0.0 else None
    performance = best / of.run.task.layout.accelerators
    yield of.score(found, performance, offered_requests_per_second=best, utilization=utilization)


def _best_rate(
    bracket: Bracket, capacity: float, anchor: _Anchor, long: Callable[[float], float], *, sure: bool
) -> float:
    """The rate of short runs where they are `sure`; otherwise as long runs correct it, its own or the anchor's."""
    rate, is_anchor = bracket.rate, anchor.short is None
    if is_anchor:
        anchor.short = bracket
    if sure:
        return min(rate, capacity)
    if anchor.long_ratio is not None:
        return min(rate * anchor.long_ratio, capacity)
    refined = refined_rate(long, bracket, capacity)
    if is_anchor:
        anchor.long_ratio = refined / rate
    return refined


@dataclass(frozen=True, slots=True)
class _Rows:
    """Makes the rows of one run."""

    run: Run
    oracle: StepOracle
    repeat: int
    source_version: str

    @property
    def is_first(self) -> bool:
        """Whether this is the default in its first repeat."""
        return self.repeat == 0 and self.run.method.name == portfolio(self.run.task.engine_version)[0].name

    def score(
        self,
        found: Outcome,
        performance: float,
        *,
        offered_requests_per_second: float | None = None,
        utilization: float | None = None,
        clients: int | None = None,
        batch_requests: int | None = None,
    ) -> Measurement:
        """The row that says how the method did."""
        row = self.row(
            Purpose.SCORE,
            found,
            offered_requests_per_second=offered_requests_per_second,
            utilization=utilization,
            clients=clients,
        )
        return replace(row, batch_requests=batch_requests, performance=performance)

    def row(
        self,
        purpose: Purpose,
        found: Outcome,
        *,
        offered_requests_per_second: float | None = None,
        utilization: float | None = None,
        clients: int | None = None,
        stable: bool = True,
    ) -> Measurement:
        """A row of this run."""
        task, layout = self.run.task, self.run.task.layout
        latency: dict[str, Any] = {
            f"{metric}_{statistic}_s": _known(found.latencies.value_s[i, j])
            for i, metric in enumerate(LATENCY_METRICS)
            for j, statistic in enumerate(STATISTICS)
        }
        return Measurement(
            source=Source.SIMULATION,
            source_version=self.source_version,
            world=self.oracle.name,
            engine_version=task.engine_version,
            task=task.key,
            kind=task.kind.value,
            model=task.model,
            accelerator=task.accelerator,
            tensor_parallel=layout.tensor_parallel,
            pipeline_parallel=layout.pipeline_parallel,
            data_parallel=layout.data_parallel,
            expert_parallel=layout.expert_parallel,
            method=self.run.method.name,
            seed=self.repeat,
            purpose=purpose,
            offered_requests_per_second=offered_requests_per_second,
            clients=clients,
            utilization=utilization,
            stable=stable,
            requests=found.requests,
            input_tokens=found.input_tokens,
            output_tokens=found.output_tokens,
            interval_ratio=_known(found.interval_ratio),
            requests_per_second=found.requests_per_second,
            output_tokens_per_second=found.output_tokens_per_second,
            makespan_s=found.makespan_s,
            cached_ratio=found.cached_ratio,
            preemptions_per_request=found.preemptions_per_request,
            **latency,
        )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
