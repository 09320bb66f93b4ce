"""One method on one task in one world under one seed: what the simulator says under a load that is asked for.

Separate from `measuring`, which decides what loads to ask for and turns answers into rows.
"""

import hashlib
import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from metainf.corpus.estimates import FloatArray, Latencies, kept, latencies, margin_of, request_latencies
from metainf.corpus.task import Task
from metainf.corpus.traffic import drawn_requests, earlier_traffic
from metainf.methods import Method
from metainf.predictors.contract import ReplicaSpec
from metainf.simulator.contract import EngineModel, HostTimes, Requests, SimulationResult, StepTimes
from metainf.simulator.engine import simulate
from metainf.workload import Traffic

__all__ = ["LEAST_REQUESTS", "MOST_INTERVAL_RATIO", "MOST_REQUESTS", "Outcome", "Run", "enough_requests", "task_seed"]

LEAST_REQUESTS = 3000
MOST_REQUESTS = 24_000
"""A run whose interval is too wide is made longer up to here; then the row says how wide it still is."""
MOST_INTERVAL_RATIO = 0.05
_WARM_UP_RATIO = 0.1
_IDLE_REQUESTS = 300
_SATURATED_TURNS = 4  # of the slots, in a run that finds the capacity
_SATURATED_REQUESTS = (3300, 20_000)
"""The fewest are as many as are sent at a rate, warm-up and all: with lengths as traces have them what 600 come to
differs by 8 % from what 20,000 do, 3,300 by 4 % (60 tasks), at no cost that could be measured."""
_CLOSED_TURNS = 12
_PARTS = 10
_T_95 = 2.2621571627982049  # Student's t of 9 degrees of freedom at 0.975
_CLOSED_REQUESTS = 400


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a run came to; figures are those of the counted requests."""

    latencies: Latencies
    requests_per_second: float
    output_tokens_per_second: float
    interval_ratio: float
    """Half of the 95 % interval over the value of what decided: the worst promise's latency, or the throughput."""
    requests: int
    input_tokens: float
    output_tokens: float
    cached_ratio: float
    preemptions_per_request: float
    makespan_s: float

    def at(self, requests_per_second: float, requests: Requests) -> "Outcome":
        """The same with so many of these requests completed each second, and their tokens."""
        tokens_per_second = float(requests_per_second * requests.output_tokens.mean())
        return replace(self, requests_per_second=requests_per_second, output_tokens_per_second=tokens_per_second)


def task_seed(task: Task, repeat: int, *, predicted: bool = False) -> int:
    """The seed of a repeat, the same for every method, in every world that is a truth.

    It is also the same on every place and under every load: what is latent in a workload is the same wherever it is
    put, so that places differ by themselves and not by luck.
    """
    who = "/predicted" if predicted else ""
    digest = hashlib.sha256(f"{task.draws_key}/{repeat}{who}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


@lru_cache(maxsize=16)
def _drawn(traffic: Traffic, count: int, seed: int, most_tokens: int) -> Requests:
    """Requests at a rate of 1 per second, kept for the other methods of the task."""
    return drawn_requests(traffic, count, seed=seed, requests_per_second=1.0, most_tokens=most_tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A replica, its truth and the latent draws of one repeat.

    What goes on for long (rates and closed loops) finds the prefix cache as the same traffic has left it before, since
    a run is far too short to fill one; with `warm` False every run begins with an empty one. A batch always does.
    """

    task: Task
    method: Method
    replica: ReplicaSpec
    engine: EngineModel
    steps: StepTimes
    host: HostTimes
    seed: int
    warm: bool = True
    most_tokens: int | None = None
    """Requests are cut to it, where the replica's own context is longer: all methods of a task meet the same ones."""

    def at_rate(self, rate: float, *, until_sure: bool = True) -> tuple[Outcome, float]:
        """Open loop at this rate, and the margin of the worst promise; see `margin_of`.

        With `until_sure` the run grows until the interval of that promise's latency is narrow.
        """
        count = LEAST_REQUESTS
        while True:
            warm_up = round(count * _WARM_UP_RATIO)
            unit = self._requests(count + warm_up)
            requests = replace(unit, arrival_s=unit.arrival_s / rate)
            result = self._served(requests)
            per_request = request_latencies(result, requests.output_tokens)
            found = latencies(per_request, warm_up)
            margin, interval = margin_of(found, self.task.slo)
            refuses = _refuses(result)
            if refuses or not until_sure or interval <= MOST_INTERVAL_RATIO or count >= MOST_REQUESTS:
                outcome = _outcome(requests, result, found, interval, warm_up)
                # Over the whole run the longest answers, which end long after the last request came, would say it.
                outcome = outcome.at(_middle_rate(result), requests)
                return outcome, np.inf if refuses else margin
            count = enough_requests(count, interval)

    def idle(self) -> tuple[Outcome, float]:
        """One client that waits for each answer, and the margin of the worst promise then."""
        requests = self._requests(_IDLE_REQUESTS)
        requests = replace(requests, arrival_s=np.zeros(_IDLE_REQUESTS), clients=1)
        result = self._served(requests)
        found = latencies(request_latencies(result, requests.output_tokens))
        margin = np.inf if _refuses(result) else margin_of(found, self.task.slo)[0]
        return _outcome(requests, result, found, np.nan, 0), margin

    def capacity(self) -> tuple[Outcome, float]:
        """Requests per second that the replica completes when more are waiting than it can run."""
        slots = self._slots()
        low, high = _SATURATED_REQUESTS
        count = min(max(low, _SATURATED_TURNS * slots), high)
        requests = self._requests(count)
        requests = replace(requests, arrival_s=np.zeros(count))
        result = self._served(requests)
        rate = 0.0 if _refuses(result) else _middle_rate(result)
        shape = latencies(request_latencies(result, requests.output_tokens))
        outcome = _outcome(requests, result, shape, np.nan, 0).at(rate, requests)
        return replace(outcome, latencies=Latencies.unstable(count)), rate

    def closed_loop(self, clients: int) -> Outcome:
        """So many clients that each wait for their answer; tokens are those of requests that keep the promises."""
        turns = (
            max(_CLOSED_TURNS, -(-_CLOSED_REQUESTS // clients)) + 3
        )  # two of warm-up, and one while clients fall idle
        count = turns * clients
        requests = replace(self._requests(count), arrival_s=np.zeros(count), clients=clients)
        result = self._served(requests)
        per_request = request_latencies(result, requests.output_tokens)
        outcome = _outcome(requests, result, latencies(per_request, 2 * clients), np.nan, 2 * clients)
        tokens = np.where(kept(per_request, self.task.slo) & (not _refuses(result)), requests.output_tokens, 0)
        rate, interval = _steady_rate(result.last_token_s, tokens.astype(np.float64), clients)
        return replace(outcome, output_tokens_per_second=rate, interval_ratio=interval)

    def batch(self, count: int) -> Outcome:
        """So many requests, all sent at once."""
        requests = self._requests(count)
        requests = replace(requests, arrival_s=np.zeros(count))
        result = self._served(requests, warm=False)
        found = latencies(request_latencies(result, requests.output_tokens))
        outcome = _outcome(requests, result, found, np.nan, 0)
        return replace(outcome, makespan_s=0.0) if _refuses(result) else outcome

    def _requests(self, count: int) -> Requests:
        own_tokens = self.replica.settings.max_model_len
        return _drawn(self.task.traffic, count, self.seed, min(own_tokens, self.most_tokens or own_tokens))

    def _served(self, requests: Requests, *, warm: bool = True) -> SimulationResult:
        earlier = earlier_traffic(self.task.traffic) if warm and self.warm else None
        return simulate(self.engine, self.steps, requests, host=self.host, seed=self.seed, earlier=earlier)

    def _slots(self) -> int:
        """Sequences that run at a time when many wait, over all ranks."""
        traffic, engine = self.task.traffic, self.engine
        context = traffic.input_tokens.mean_tokens + traffic.output_tokens.mean_tokens / 2.0
        prefix = traffic.shared_prefix
        if prefix is not None and engine.prefix_caching:
            context -= prefix.ratio * prefix.tokens
        blocks = max(1.0, context / engine.block_tokens) * len(engine.groups)
        by_cache = engine.kv_blocks / blocks
        return max(1, int(min(engine.max_num_seqs, by_cache) * engine.data_parallel))


def enough_requests(count: int, interval_ratio: float) -> int:
    """Requests, a doubling or more of those so far, whose interval should be narrow: it falls as their root rises."""
    if not math.isfinite(interval_ratio):
        return MOST_REQUESTS
    doublings = max(1, math.ceil(2.0 * math.log2(interval_ratio / MOST_INTERVAL_RATIO)))
    return int(min(count * 2.0**doublings, MOST_REQUESTS))


def _refuses(result: SimulationResult) -> bool:
    """Whether the engine refused a request as too long for it: a method that does so does not serve the task.

    What it does for the others says nothing then; without the longest of a batch it would even look faster.
    """
    return bool(np.isnan(result.last_token_s).any())


def _outcome(
    requests: Requests, result: SimulationResult, found: Latencies, interval_ratio: float, first: int
) -> Outcome:
    served = ~np.isnan(result.last_token_s)
    prompts, answers = requests.input_tokens[first:], requests.output_tokens[first:]
    answered = float(requests.output_tokens[served].sum())
    per_second = 1.0 / result.makespan_s if result.makespan_s > 0.0 else 0.0
    return Outcome(
        latencies=found,
        requests_per_second=float(served.sum()) * per_second,
        output_tokens_per_second=answered * per_second,
        interval_ratio=interval_ratio,
        requests=len(prompts),
        input_tokens=float(prompts.mean()),
        output_tokens=float(answers.mean()),
        cached_ratio=float(result.cached_tokens[first:].sum() / prompts.sum()),
        preemptions_per_request=float(result.preemptions[first:].mean()),
        makespan_s=result.makespan_s,
    )


def _middle_rate(result: SimulationResult) -> float:
    """Requests per second between a quarter and three quarters of all that were completed; 0 of very few.

    The first wave starts together and the last one thins out: neither is what the replica can do.
    """
    done_s = np.sort(result.last_token_s[~np.isnan(result.last_token_s)])
    first, last = len(done_s) // 4, len(done_s) * 3 // 4
    return float((last - first) / (done_s[last] - done_s[first])) if len(done_s) > 8 else 0.0


def _steady_rate(last_token_s: FloatArray, tokens: FloatArray, clients: int) -> tuple[float, float]:
    """Tokens per second while all clients were busy, and half of the 95 % interval over it.

    Counted from the end of the second turn to the end of the last but one, turns being as many completions as there
    are clients: equal requests finish together, and any other edge would cut through them. The interval is that of a
    ratio of sums over ten parts, since parts of equal count take unequal times.
    """
    order = np.argsort(last_token_s, kind="stable")  # refused requests, NaN, come last
    done_s, done = last_token_s[order], tokens[order]
    known = int((~np.isnan(done_s)).sum())
    first, last = 2 * clients - 1, known - clients - 1
    if last - first < _PARTS or done_s[last] <= done_s[first]:
        return 0.0, np.nan
    edges = np.linspace(first, last, _PARTS + 1).astype(np.int64)
    sums = np.add.reduceat(done[first + 1 : last + 1], edges[:-1] - first)
    spans = np.diff(done_s[edges])
    rate = float(sums.sum() / spans.sum())
    if rate == 0.0:
        return 0.0, np.nan
    spread = float(np.sqrt(((sums - rate * spans) ** 2).sum() / (_PARTS * (_PARTS - 1))))
    return rate, _T_95 * spread / float(sums.mean())
