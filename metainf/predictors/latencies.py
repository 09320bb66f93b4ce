"""From lanes at their operating points to latencies: means and percentiles of TTFT, TPOT and E2E per question.

Separate from the queueing model, which gives means, because percentiles are approximations of another kind: tails of
waits, spread of lengths, cached and computed prompts mixed.
"""

import numpy as np

from metainf.bursts import arrivals_after, dealt_squared_cv, found_busy
from metainf.predictors.contract import FloatArray
from metainf.predictors.lanes import LaneSet
from metainf.predictors.prompt_lengths import computed_at
from metainf.queueing import (
    Lane,
    OperatingPoint,
    alone_prompt_s,
    at,
    closed_prompt_wait_s,
    decode_step_s,
    prompt_load,
    share_of_any,
)
from metainf.waits import (
    STARTUP_SHARE,
    fitting_ratio,
    frontend_wait_s,
    prompts_waited_for,
    slot_wait_s,
    startup_wait_s,
    step_wait_ratio,
    streaming_wait_s,
    together_ratio,
)

__all__ = ["batch_latencies", "steady_latencies"]

_QUANTILES = (0.5, 0.95, 0.99)
_Z = (0.0, 1.6448536269514722, 2.3263478740408408)
_TPOT_LOG_SD = 0.02
"""Spread of TPOT between requests that meet the same load. Source: gpustack_perflab.csv, p99 over p50 at low load."""
_BUSIEST_SHARED = 0.95  # nearer to full a burst is over before steps are shared among so many
_MIDDLE = 0.5
"""Median over mean of what prompts behind a request add: between that of an exponential and that of a rare burst."""


def steady_latencies(
    lanes: LaneSet, point: OperatingPoint, load: FloatArray, capacity: FloatArray, full_y: FloatArray
) -> FloatArray:
    """Latencies of open and closed loops, seconds, shape (n, 3, 4).

    `load` is per lane: requests per second or clients; `capacity` is the lane's most requests per second.
    """
    lane = lanes.lane
    is_open = lane.open_loop > 0
    clients = np.maximum(np.where(is_open, 1.0, load), 1.0)
    others = np.where(is_open, 1.0, 1.0 - 1.0 / np.maximum(clients, 1.0))
    share = _prompts_of_others(lane, point, load, others)
    decode_step = point.decode_step_s + share * (point.prompt_step_s - point.decode_step_s)
    decode_s = lane.decode_steps * decode_step
    running = np.minimum(point.decoding * others, 1.0)
    busy = prompt_load(lane, point)
    ending = np.where(is_open, step_wait_ratio(lane, busy), 0.5)
    residual = running * point.decode_step_s * (ending + lanes.replica.asynchronous)
    # A step that another rank's prompt holds up is met in proportion to its length, and half of it is left.
    if np.any(lane.ranks > 1.0):
        beside = share_of_any(point.prompt_share, lane.ranks - 1.0)
        residual = residual + 0.5 * beside * point.prompt_step_s**2 / point.step_s
    utilization = np.where(is_open, load / capacity, 0.0)
    ca = np.asarray(lanes.traffic.arrival_squared_cv)
    queued = closed_prompt_wait_s(busy, lane.queued_prompt_s, clients)
    behind = np.zeros((1 + len(_Z), *busy.shape))
    if is_open.any():
        own_ca = dealt_squared_cv(ca, lane.servers)
        found = found_busy(busy, own_ca)
        # Prompts enter a pipeline as fast as its first stage takes them. Who shares the steps waits in each of its
        # own, which are many and decode too.
        prompt_s = np.where(lane.fair_prompts > 0, point.prefill_s, lane.queued_prompt_s / lane.stages)
        queued = np.where(is_open, prompts_waited_for(lane, busy, own_ca, found) * prompt_s, queued)
        # What came before its last step is computed with it and not behind it.
        ahead = queued / together_ratio(lane, busy)
        behind = _prompts_behind(lane, point, ca, busy, (point.prefill_s + residual + ahead, decode_s))
        busy = np.where(is_open, found, busy)
    answer_cv = np.expm1(np.asarray(lanes.traffic.output_log_sd) ** 2)
    slot = np.where(
        is_open, slot_wait_s(lane, point, utilization, ca) + streaming_wait_s(lane, point, ca, answer_cv), 0.0
    )
    base = lane.request_s + residual + point.prefill_s + frontend_wait_s(lane, point)
    # Clients beyond the slots wait until the loop's law holds: clients = throughput x time of one round.
    held = np.where(
        is_open | (point.requests_per_step < full_y * (1 - 1e-9)),
        0.0,
        np.maximum(0.0, load / point.requests_per_second - base - queued - decode_s),
    )
    wait = queued + slot
    startup = np.where(is_open, 0.0, startup_wait_s(lane, clients))
    ttft = _ttft(lanes, busy, base + held, wait, startup)
    tpot = _tpot(lanes, point, decode_step, share, behind)
    e2e = _e2e(lanes, ttft, tpot, decode_s + lane.decode_steps * behind[0])
    table = np.stack([ttft, tpot, e2e], axis=1)
    table[~(utilization < 1.0) & is_open] = np.inf
    return table


def _prompts_of_others(lane: Lane, point: OperatingPoint, load: FloatArray, others: FloatArray) -> FloatArray:
    """Share of the steps of a decoding request that are held up by a prompt, which is never its own."""
    own = point.prompt_share * others
    together = lane.ranks * lane.stages
    if not np.any(together > 1.0):
        return own
    # Where clients are fewer than lanes, so are those beside this one.
    clients = np.maximum(1.0 / np.where(lane.open_loop > 0, 1.0, load), 1.0)
    beside = share_of_any(point.prompt_share, np.maximum(together - clients, 0.0))
    return np.asarray(own + (1.0 - own) * beside)


def _prompts_behind(
    lane: Lane, point: OperatingPoint, ca: FloatArray, load: FloatArray, spent_s: tuple[FloatArray, FloatArray]
) -> FloatArray:
    """What prompts behind a request add to its decode steps beyond their usual share: mean and percentiles, (4, n).

    Open loops, seconds. `spent_s` is the time to the first token without waits for slots, and that of decoding. Prompts
    that arrive in either are computed while the request decodes, and bring more behind them in that time; a step holds
    no more than its budget. What comes in bursts is computed by all lanes of a replica.
    """
    first_s, decode_s = spent_s
    together = lane.servers * lane.stages
    ca = np.maximum(ca, 1.0)
    rate = point.requests_per_second
    count = arrivals_after(rate * together * (first_s + decode_s), ca) / together
    more = np.maximum(count - rate * decode_s, 0.0) * lane.open_loop
    each = lane.queued_prompt_s / (1.0 - load) / np.maximum(lane.decode_steps, 1.0)
    full_s = point.decode_step_s + lane.budget_tokens / lane.prompt_tokens * lane.queued_prompt_s
    most = np.maximum(np.maximum(full_s, point.prompt_step_s) - point.step_s, 0.0)
    # Those of a burst come together or not at all; others spread like Poisson arrivals and with the wait.
    burst = np.minimum((ca - 1.0) / (2.0 * together), count)
    sd = np.sqrt(more * (1.0 + burst) + (rate * first_s * lane.open_loop) ** 2) * each
    mean = more * each
    return np.minimum(np.stack([mean, _MIDDLE * mean, *(mean + z * sd for z in _Z[1:])]), most)


def _ttft(lanes: LaneSet, busy: FloatArray, base: FloatArray, wait: FloatArray, startup: FloatArray) -> FloatArray:
    lane = lanes.lane
    busy = np.maximum(busy, 0.05)
    # Alone on the lane: beside others a prompt costs less of its own, since weights are read anyway.
    one_s = alone_prompt_s(lane)
    # What takes several steps decodes in each of them.
    steps = lane.prompt_tokens / np.minimum(lane.empty.chunk_tokens, lane.budget_tokens)
    one_s = one_s + np.where(steps > 1.0, steps, 0.0) * lane.empty.decode_step_s
    mean = base + wait + STARTUP_SHARE * startup
    columns = [mean]
    prompts = computed_at(lanes.traffic, lanes.hit_ratio, lanes.hit_tokens, _QUANTILES)
    # Who shares the steps waits in proportion to its own length, and for no queue: x / (1 - rho).
    stretch = np.where(lane.fair_prompts > 0, 1.0 / (1.0 - np.minimum(busy, _BUSIEST_SHARED)), 1.0)
    for quantile, tokens in zip(_QUANTILES, prompts, strict=True):
        # Each token of a longer prompt attends to more, half of the difference in the mean.
        longer_s = lane.steps.prompt_pair_s * tokens * (tokens - lane.prompt_tokens) / 2.0
        prompt = (one_s * (tokens / lane.prompt_tokens - 1.0) + longer_s) * stretch
        # An exponential tail above an atom at zero: P(wait > t) = busy x exp(-t busy / mean).
        with np.errstate(invalid="ignore"):
            tail = np.maximum(0.0, np.log(busy / (1.0 - quantile)) * wait / busy)
            waited = np.where(np.isinf(wait), np.inf, np.where(lane.fair_prompts > 0, wait, tail))
        if quantile == 0.5:
            # In a step with others a prompt shorter than most ends no earlier than they do; a longer one ends later.
            prompt = np.where(prompt < 0.0, prompt * (1.0 - busy * fitting_ratio(lane)), prompt)
            columns.append(np.maximum(base + prompt + waited, 0.2 * base))
            continue
        late = np.maximum(0.0, 1.0 - (1.0 - quantile) / STARTUP_SHARE) * 2.0 * startup
        with np.errstate(invalid="ignore"):
            above = np.hypot(np.maximum(prompt, 0.0), np.maximum(waited - wait, 0.0))
        columns.append(np.maximum(base + wait + above, base + late))
    table = np.stack(columns, axis=1)
    table[:, 1:] = np.maximum.accumulate(table[:, 1:], axis=1)
    return table


def _tpot(lanes: LaneSet, point: OperatingPoint, step: FloatArray, share: FloatArray, behind: FloatArray) -> FloatArray:
    """Mean and percentiles: answers differ in the prompts they meet and, in open loops, in the batch they run in.

    `behind`, shape (4, n), is what prompts behind a request add to these.

    Each part rises with the load: what a prompt adds is taken from the empty lane, times the prompts in a step.
    """
    lane = lanes.lane
    steps = np.maximum(lane.decode_steps, 1.0)
    empty = lane.empty
    together = np.maximum(point.requests_per_step * lane.prompt_tokens / empty.chunk_tokens, 1.0)
    extra = (empty.prompt_step_s - empty.decode_step_s) * together
    from_prompts = np.sqrt(share * steps * (1.0 + lane.prompt_squared_cv * (1.0 - lane.fair_prompts))) * extra / steps
    # The median is put at the mean: it is a little below, by less than the spread grows with the load.
    z = np.array(_Z[1:])[:, None]
    # In open loops the batch of a request is about Poisson: its quantile, by the normal approximation.
    more = at(lane, point.requests_per_step * (1.0 + lane.open_loop * z / np.sqrt(point.decoding + 1.0)))
    late = step + more.step_s - point.step_s + z * np.hypot(_TPOT_LOG_SD * step, from_prompts)
    found = behind + np.stack([step, step, *late])
    return np.asarray(found.T / lanes.tokens_per_step[:, None])


def _e2e(lanes: LaneSet, ttft: FloatArray, tpot: FloatArray, decode_s: FloatArray) -> FloatArray:
    output_sd = lanes.traffic.output_log_sd
    tpot_mean = np.maximum(tpot[:, 0], 1e-12)
    columns = [ttft[:, 0] + decode_s]
    for index, z in enumerate(_Z, start=1):
        if z == 0.0:
            columns.append(ttft[:, 1] + decode_s * np.exp(-(output_sd**2) / 2.0) * tpot[:, 1] / tpot_mean)
            continue
        sd = np.hypot(output_sd, np.log(np.maximum(tpot[:, index] / tpot_mean, 1.0)) / z)
        decode = decode_s * np.exp(z * sd - sd**2 / 2.0)
        with np.errstate(invalid="ignore"):
            above = np.hypot(np.maximum(decode - decode_s, 0.0), np.maximum(ttft[:, index] - ttft[:, 0], 0.0))
        columns.append(columns[0] + np.nan_to_num(above, nan=np.inf, posinf=np.inf))
    table = np.stack(columns, axis=1)
    table[:, 1:] = np.maximum.accumulate(table[:, 1:], axis=1)
    return table


def batch_latencies(lanes: LaneSet, point: OperatingPoint, requests: FloatArray, makespan_s: FloatArray) -> FloatArray:
    """Latencies of a batch whose requests are all sent at the start, seconds, shape (n, 3, 4)."""
    lane = lanes.lane
    wave = np.minimum(requests, lane.slots)
    one_s = lane.queued_prompt_s
    step_s = decode_step_s(lane, wave)
    decode_s = lane.decode_steps * step_s
    later_s = np.maximum(makespan_s - decode_s - wave * one_s - lane.request_s, 0.0)
    prompt, budget = lane.prompt_tokens, np.maximum(lane.budget_tokens, 1.0)

    def started(place: float) -> FloatArray:
        """Time of the first token of the request at this share of the queue."""
        behind = np.clip((place * requests - wave) / np.maximum(requests - wave, 1e-9), 0.0, 1.0)
        ahead = np.maximum(np.minimum(place * requests, wave), 1.0)
        # First tokens come at the end of a step, and what is sent together shares one up to the budget.
        ahead = np.minimum(np.ceil(ahead * prompt / budget) * budget / prompt, np.maximum(wave, 1.0))
        first = lane.request_s + point.decode_step_s + ahead * one_s
        return np.asarray(first + np.where(requests > wave, behind * later_s + (behind > 0) * decode_s, 0.0))

    places = np.linspace(0.05, 0.95, 10)
    ttft = np.stack([np.mean([started(p) for p in places], axis=0), *(started(q) for q in _QUANTILES)], axis=1)
    ttft[:, 1:] = np.maximum.accumulate(ttft[:, 1:], axis=1)
    behind = _batch_prompts_behind(lane, point, requests, step_s)
    tpot = _tpot(lanes, point, step_s, np.zeros_like(wave), behind)
    return np.stack([ttft, tpot, _e2e(lanes, ttft, tpot, decode_s + lane.decode_steps * behind[0])], axis=1)


def _batch_prompts_behind(lane: Lane, point: OperatingPoint, requests: FloatArray, step_s: FloatArray) -> FloatArray:
    """What prompts add to the decode steps of a batch: mean and percentiles, shape (4, n), seconds.

    While prompts of the first wave are left each step is full of them, so those that were first decode slowly, by what
    is left at their place in the queue. Later ones decode beside what takes the place of others.
    """
    wave = np.minimum(requests, lane.slots)
    full_s = lane.queued_prompt_s * lane.budget_tokens / lane.prompt_tokens
    first = wave * lane.prompt_tokens / np.maximum(lane.budget_tokens, 1.0)
    later = np.maximum(point.step_s - step_s, 0.0)
    share = wave / np.maximum(requests, wave)

    def added(place: float) -> FloatArray:
        left = np.maximum(first - np.ceil(place * first), 0.0) / np.maximum(lane.decode_steps, 1.0)
        return np.asarray(share * np.minimum(left, 1.0) * full_s + (1.0 - share) * later)

    mean = np.mean([added(place) for place in np.linspace(0.05, 0.95, 10)], axis=0)
    return np.stack([mean, *(added(1.0 - quantile) for quantile in _QUANTILES)])
