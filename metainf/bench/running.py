"""Runs a plan: servers up, each run cleanly begun and written down, and on with the next, whatever went wrong.

Separate from the plan, the ledger, the servers and the load generator, all of which it is given: this is the order of
things. A run begins on an idle server with an empty prefix cache, which a short request has woken; all other servers
rest meanwhile. A server's first load is a warm-up that is not kept.
A server that ends is a record, and is started again for its next run; one that keeps ending is left alone.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from metainf.bench.design import BenchLoad, Run
from metainf.bench.ledger import Ledger
from metainf.bench.loading import LoadTimeoutError, serve_arguments
from metainf.bench.processes import EngineError
from metainf.bench.readings import engine_figures, load_figures, together
from metainf.bench.records import EngineFigures, LoadFigures, Outcome, RunRecord
from metainf.bench.servers import Server, Servers
from metainf.bench.traffics import BenchTraffic, Part, traffic_named

__all__ = ["Limits", "Loads", "Progress", "run_plan"]

_WARM_UP = BenchTraffic("warm-up", "a long prompt and three short ones", (Part(1, 576, 16), Part(3, 64, 16)))
_WARM_UP_LOAD = BenchLoad.parse("b4")
_WARM_UP_SEED = 0
_ENDING_S = 3.0
"""A server that ends may fail requests before its process is gone."""
_DRAIN_S = 60.0
_MOST_ROUNDS = 16
"""Of a run: one that short is a single request, whose spread sixteen of them show."""


class Loads(Protocol):
    """What runs loads, as `loading.LoadGenerator`."""

    def begin(self) -> None:
        """Be ready soon."""

    def run(self, arguments: list[str], *, most_s: float) -> Mapping[str, object]:
        """One load."""

    def end(self) -> None:
        """Be gone."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take."""

    seconds: float | None = None
    """No run begins that would, at the pace so far, end after so long."""
    run_s: float = 600.0
    """Of one run; then it counts as timed out."""
    restarts: int = 2
    """Of one server that ended."""
    retry_failed: bool = False
    """Run again what ended without success."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a bench is; counts are runs."""

    done: int
    total: int
    here: int
    """Done by this process, not found."""
    elapsed_s: float
    what: str
    """What is being done."""

    @property
    def left_s(self) -> float | None:
        """Time that the rest takes at the pace so far, starts of servers included; None before anything was done."""
        return None if self.here == 0 else self.elapsed_s / self.here * (self.total - self.done)


def run_plan(
    ledger: Ledger,
    servers: Servers,
    loads: Loads,
    limits: Limits = Limits(),
    *,
    clock: Callable[[], float] = time.monotonic,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Run what is missing of a plan, and say how far it is.

    Parameters
    ----------
    clock : function
        Seconds that only rise.
    """
    runner = _Runner(ledger, servers, loads, limits=limits, clock=clock, report=report)
    try:
        runner.run()
    finally:
        loads.end()
    final = runner.progress("done")
    report(final)
    return final


class _Runner:
    """One pass over a plan; exists only inside `run_plan`."""

    def __init__(
        self,
        ledger: Ledger,
        servers: Servers,
        loads: Loads,
        *,
        limits: Limits,
        clock: Callable[[], float],
        report: Callable[[Progress], None],
    ) -> None:
        self.ledger = ledger
        self.servers = servers
        self.loads = loads
        self.limits = limits
        self.clock = clock
        self.report = report
        self.begun_s = clock()
        self.total = len(ledger.plan.runs)
        again = ledger.failed() if limits.retry_failed else frozenset()
        self.pending = {run.key for run in ledger.plan.runs} - (ledger.done - again)
        self.here = 0
        self.ends: Counter[str] = Counter()

    def progress(self, what: str) -> Progress:
        """How far it is."""
        return Progress(self.total - len(self.pending), self.total, self.here, self.clock() - self.begun_s, what)

    def run(self) -> None:
        """Every model, some servers at a time."""
        for model in self.ledger.plan.models:
            for methods in _parts(self.ledger.plan.methods, self.servers.most_at_once):
                mine = [name for name in methods if self._waits(model, name)]
                if mine and not self._time_is_up():
                    self._group(model, mine)

    def _waits(self, model: str, name: str) -> bool:
        blocks = self.ledger.plan.blocks(model, [name])
        return any(run.key in self.pending for block in blocks for run in block)

    def _group(self, model: str, methods: Sequence[str]) -> None:
        self.report(self.progress(f"{model}: starting {len(methods)} servers"))
        self.ends.clear()
        self.loads.begin()
        with self._standing(model, methods) as standing:
            for block in self.ledger.plan.blocks(model, methods):
                for run in block:
                    if run.key not in self.pending:
                        continue
                    if self._time_is_up():
                        return
                    self.report(self.progress(f"{run.task.key} {run.method}"))
                    self._kept(self._one(run, standing))

    def _kept(self, record: RunRecord) -> None:
        self.ledger.add(record)
        self.pending.discard(record.run.key)
        self.here += 1

    @contextmanager
    def _standing(self, model: str, methods: Sequence[str]) -> Iterator[dict[str, Server]]:
        """Servers by method; ended at the end."""
        standing: dict[str, Server] = {}
        try:
            standing |= self._up(model, methods)
            yield standing
        finally:
            for server in standing.values():
                server.stop()

    def _up(self, model: str, methods: Sequence[str]) -> Mapping[str, Server]:
        found = self.servers.up(model, methods, len(self.ledger.servers))
        for server in sorted(found.values(), key=lambda each: each.record.number):
            self.ledger.add(server.record)
        for server in found.values():
            if not server.record.failure:
                with suppress(EngineError):  # what is wrong shows in the first run
                    self._round(server, _WARM_UP, _WARM_UP_LOAD, _WARM_UP_SEED)
            server.rest()
        return found

    def _one(self, run: Run, standing: dict[str, Server]) -> RunRecord:
        """The record of a run, whatever happens."""
        if run.method not in standing:
            standing |= self._up(run.task.model, [run.method])
        server = standing[run.method]
        blank = RunRecord(
            *(run.task.model, run.task.traffic, run.task.load, run.method, run.repeat),
            outcome=Outcome.NOT_STARTED,
            detail=server.record.failure,
            server=server.record.number,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            wall_s=0.0,
            machine_load=round(os.getloadavg()[0], 2),
        )
        if server.record.failure:
            return blank
        begun_s = self.clock()
        server.wake()
        try:
            record = self._measured(blank, run, server)
        finally:
            server.rest()
        if record.outcome in (Outcome.CRASHED, Outcome.TIMED_OUT):
            server.stop()
            self.ends[run.method] += 1
            if self.ends[run.method] <= self.limits.restarts:
                del standing[run.method]
            else:
                server.record = replace(server.record, failure=f"it ended {self.ends[run.method]} times: left alone")
        return replace(record, wall_s=round(self.clock() - begun_s, 3))

    def _measured(self, blank: RunRecord, run: Run, server: Server) -> RunRecord:
        load = BenchLoad.parse(run.task.load)
        try:
            server.endpoint.greet(server.target.served_name)
            if not server.endpoint.drained(most_s=_DRAIN_S):
                return replace(blank, outcome=Outcome.TIMED_OUT, detail=f"still busy {_DRAIN_S:g} s after the last run")
            figures, engine = self._loaded(server, run)
        except LoadTimeoutError as error:
            return replace(blank, outcome=Outcome.TIMED_OUT, detail=str(error))
        except EngineError as error:
            ended = self._ended(server)
            outcome = Outcome.CRASHED if ended else Outcome.LOAD_FAILED
            return replace(blank, outcome=outcome, detail=ended or str(error))
        if figures.failed:
            ended = self._ended(server)
            outcome = Outcome.CRASHED if ended else Outcome.INCOMPLETE
            detail = f"{figures.failed} of {load.requests * figures.rounds} requests failed"
            detail += f"; {ended}" if ended else ""
            return replace(blank, outcome=outcome, detail=detail, figures=figures, engine=engine)
        return replace(blank, outcome=Outcome.COMPLETED, detail="", figures=figures, engine=engine)

    def _loaded(self, server: Server, run: Run) -> tuple[LoadFigures, EngineFigures | None]:
        """The figures of as many rounds as the plan's time asks for; the engine's own only where it still answers."""
        plan, load = self.ledger.plan, BenchLoad.parse(run.task.load)
        before = server.endpoint.metrics()
        rounds: list[LoadFigures] = []
        while not rounds or self._asks_for_more(rounds):
            seed = plan.seed_of(run.task, run.repeat, len(rounds))
            rounds.append(self._round(server, traffic_named(run.task.traffic), load, seed))
        figures = together(rounds)
        try:
            return figures, engine_figures(before, server.endpoint.metrics())
        except EngineError:
            return figures, None

    def _asks_for_more(self, rounds: Sequence[LoadFigures]) -> bool:
        seconds = sum(each.duration_s for each in rounds)
        short = seconds < self.ledger.plan.least_seconds and len(rounds) < _MOST_ROUNDS
        return short and not rounds[-1].failed

    def _round(self, server: Server, traffic: BenchTraffic, load: BenchLoad, seed: int) -> LoadFigures:
        """One load on an empty prefix cache."""
        server.endpoint.forget_prefixes()
        trace = self.ledger.folder / "trace.jsonl"
        trace.write_text(traffic.trace(load.requests, seed), encoding="utf-8")
        arguments = serve_arguments(server.target, traffic, load, trace, seed)
        return load_figures(self.loads.run(arguments, most_s=self.limits.run_s))

    def _ended(self, server: Server) -> str:
        """How the server ended, waiting a moment for it; empty where it lives."""
        begun_s = self.clock()
        while not (ended := server.ended()) and self.clock() - begun_s < _ENDING_S:
            time.sleep(0.1)
        return ended

    def _time_is_up(self) -> bool:
        if self.limits.seconds is None:
            return False
        elapsed_s = self.clock() - self.begun_s
        pace_s = elapsed_s / self.here if self.here else 0.0
        return elapsed_s + pace_s > self.limits.seconds


def _parts(methods: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    """The methods in as few parts as may be, of nearly equal size."""
    count = -(-len(methods) // max(1, most))
    for place in range(count):
        yield methods[place * len(methods) // count : (place + 1) * len(methods) // count]
