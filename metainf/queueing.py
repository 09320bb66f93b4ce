"""A mean-field model of the continuous-batching engine: load in, operating point and latency distributions out.

Separate from the predictors so that its laws can be tested on plain arrays: more load is never faster, and latency is
infinite exactly where the load exceeds the capacity.

The state of one lane (a data-parallel rank or a pipeline stage's worth of one, see `roofline`) is one number, the
requests that pass per step, y. By Little's law y x (steps of decoding) sequences decode at a time and y x (prompt
tokens) are in a step on average; from these the mean step time s(y) follows, and the lane completes y / s(y) requests
per second. Slots (KV cache, `max_num_seqs`) and the token budget bound y. Loads are inverted on a grid of y.
"""

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from metainf.roofline import INTERACTIVITY_TOKENS, StepModel, mapped, step_time_s, taken

__all__ = [
    "STARTUP_SHARE",
    "Lane",
    "OperatingPoint",
    "alone_prompt_s",
    "at",
    "batch_makespan_s",
    "closed_prompt_wait_s",
    "decode_step_s",
    "frontend_wait_s",
    "largest_requests_per_step",
    "prompt_load",
    "prompt_wait_s",
    "slot_wait_s",
    "solve",
    "startup_wait_s",
    "streaming_wait_s",
]

FloatArray = NDArray[np.float64]

_GRID = np.geomspace(1e-3, 1.0, 12)
"""Shares of the largest y between which a load is looked for."""
_REFINEMENTS = 2  # looks between two of them: 99 of 100 answers are then within 0.2 % of one on a grid of 2,000
STARTUP_SHARE = 0.1
"""Share of a closed loop's requests that are sent at once at its start.

Source: public serving benchmarks send ten requests per client and start all clients together (InferenceX,
`num_prompts = 10 x max_concurrency`).
"""


_BUSIEST_FRONTEND = 0.9  # beyond it clients see lumps of tokens, not later ones


@dataclass(frozen=True)  # without slots: what follows from the lane alone is worked out once and kept
class Lane:
    """One lane and the requests it gets; every field an array of shape (n,) or of (n, 1) for a grid."""

    steps: StepModel
    slots: FloatArray
    """Sequences that fit at a time."""
    budget_tokens: FloatArray
    chunk_tokens: FloatArray
    """Most prompt tokens of one request in a step."""
    prompt_tokens: FloatArray
    """Mean prompt tokens that have to be computed: cached ones are not among them."""
    prompt_context_tokens: FloatArray
    """Tokens that a prompt token attends to, on average."""
    prompt_squared_cv: FloatArray
    decode_steps: FloatArray
    """Mean decode steps of a request: fewer than its tokens with speculation."""
    context_tokens: FloatArray
    """Mean cached tokens of a decoding sequence."""
    tokens_per_sequence: FloatArray
    """Tokens of a decoding sequence in a step: 1, or drafts and one."""
    small_step_scale: FloatArray
    """Factor on steps of few tokens: performance mode interactivity."""
    step_extra_s: FloatArray
    """Drafters' passes beyond what goes with all tokens, and host work that asynchronous scheduling would hide."""
    sequence_extra_s: FloatArray
    """The same for each decoding sequence."""
    frontend_token_s: FloatArray
    """Work of the API server per message with streamed tokens."""
    messages: FloatArray
    """Mean messages of an answer: fewer than its steps where the server streams at intervals."""
    frontend_lanes: FloatArray
    """Lanes that share an API server's process: there is one for each data-parallel rank."""
    request_s: FloatArray
    """Client to engine and back, per request, outside of the engine's steps."""
    open_loop: FloatArray
    """1 where requests arrive on their own: one meets a sequence more than the mean; 0 for closed loops."""

    def on_grid(self) -> "Lane":
        """The same with a trailing axis of length 1."""
        rest = (np.asarray(getattr(self, f.name))[:, None] for f in fields(Lane)[1:])
        return Lane(mapped(self.steps, lambda values: values[:, None]), *rest)

    def rows(self, index: NDArray[np.intp]) -> "Lane":
        """The lanes that `index` picks."""
        rest = (np.asarray(getattr(self, f.name))[index] for f in fields(Lane)[1:])
        return Lane(taken(self.steps, index), *rest)

    @cached_property
    def empty(self) -> "OperatingPoint":
        """The lane when next to nothing passes."""
        return at(self, np.full_like(self.slots, 1e-9))

    @cached_property
    def streaming_s(self) -> FloatArray:
        """Time of the lane's part of an API server that one answer takes: no lane completes more than one in each."""
        return np.asarray(self.messages * self.frontend_token_s * self.frontend_lanes)

    @cached_property
    def queued_prompt_s(self) -> FloatArray:
        """Time that a mean prompt adds to a queue of prompts, seconds: those that wait share steps up to the budget."""
        full = np.maximum(self.budget_tokens, 1.0)
        one = np.where(self.decode_steps > 0, 1.0, 0.0)
        without_s, with_s = _step(self, one, np.stack([np.zeros_like(full), full]))
        return np.asarray(self.prompt_tokens / full * (with_s - without_s))


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A lane at a load; arrays that broadcast with the lane's."""

    requests_per_step: FloatArray
    requests_per_second: FloatArray
    decoding: FloatArray
    """Mean sequences that decode at a time."""
    decode_step_s: FloatArray
    """A step without prompt tokens."""
    prompt_step_s: FloatArray
    """A step with a chunk of a prompt."""
    prompt_share: FloatArray
    """Share of the steps that carry prompt tokens."""
    chunk_tokens: FloatArray
    """Prompt tokens in such a step, of one prompt or several."""
    chunks: FloatArray
    """Steps over which one prompt spreads."""

    @property
    def step_s(self) -> FloatArray:
        """Mean time of a step."""
        return self.decode_step_s + self.prompt_share * (self.prompt_step_s - self.decode_step_s)

    @property
    def prefill_s(self) -> FloatArray:
        """Steps of one mean prompt."""
        return self.chunks * self.prompt_step_s


def largest_requests_per_step(lane: Lane) -> FloatArray:
    """The y at which slots or the token budget are used up."""
    chunk = np.minimum(lane.prompt_tokens, np.minimum(lane.chunk_tokens, lane.budget_tokens))
    by_slots = lane.slots / (lane.decode_steps + lane.prompt_tokens / chunk)
    by_budget = lane.budget_tokens / (lane.prompt_tokens + lane.decode_steps * lane.tokens_per_sequence)
    return np.minimum(by_slots, by_budget)


def at(lane: Lane, requests_per_step: FloatArray) -> OperatingPoint:
    """The lane's state when so many requests pass per step."""
    y = requests_per_step
    decoding = y * lane.decode_steps
    per_step = y * lane.prompt_tokens
    # One request never meets less than itself; where arrivals are random it meets one more than the mean (PASTA).
    met = np.minimum(np.maximum(decoding + lane.open_loop, 1.0), np.maximum(lane.slots, 1.0))
    met = np.where(lane.decode_steps > 0, met, 0.0)
    room = np.maximum(lane.budget_tokens - decoding * lane.tokens_per_sequence, 1.0)
    chunk = np.maximum(np.minimum(np.minimum(lane.prompt_tokens, lane.chunk_tokens), room), per_step)
    decode_s, with_chunk_s = _step(lane, met, np.stack([np.zeros_like(chunk), chunk]))
    prompt_s = np.maximum(with_chunk_s, decode_s)
    share = np.minimum(per_step / chunk, 1.0)
    step_s = decode_s + share * (prompt_s - decode_s)
    chunks = np.maximum(lane.prompt_tokens / chunk, 1.0)
    return OperatingPoint(y, y / step_s, decoding, decode_s, prompt_s, share, chunk, chunks)


def _step(lane: Lane, sequences: FloatArray, prompt_tokens: FloatArray) -> FloatArray:
    time_s = step_time_s(
        lane.steps,
        sequences,
        lane.context_tokens,
        prompt_tokens,
        lane.prompt_context_tokens,
        tokens_per_sequence=lane.tokens_per_sequence,
    )
    small = sequences * lane.tokens_per_sequence + prompt_tokens <= INTERACTIVITY_TOKENS
    return time_s * np.where(small, lane.small_step_scale, 1.0) + lane.step_extra_s + sequences * lane.sequence_extra_s


def alone_prompt_s(lane: Lane) -> FloatArray:
    """Time that one mean prompt adds to a lane that does nothing else, seconds."""
    point = lane.empty
    return np.asarray(lane.prompt_tokens / point.chunk_tokens * (point.prompt_step_s - point.decode_step_s))


def prompt_load(lane: Lane, point: OperatingPoint) -> FloatArray:
    """Share of the lane's time that prompts take: what an arriving prompt finds ahead of it."""
    return np.minimum(point.requests_per_second * lane.queued_prompt_s, 0.999)


def prompt_wait_s(lane: Lane, point: OperatingPoint, arrival_squared_cv: FloatArray) -> FloatArray:
    """Mean wait for prompts ahead, seconds.

    Source: Kingman's approximation for one server, rho / (1 - rho) x (ca^2 + cs^2) / 2 x service time.
    """
    load = prompt_load(lane, point)
    spread = (arrival_squared_cv + lane.prompt_squared_cv) / 2.0
    return load / (1.0 - load) * spread * lane.queued_prompt_s


def slot_wait_s(
    lane: Lane, point: OperatingPoint, utilization: FloatArray, arrival_squared_cv: FloatArray
) -> FloatArray:
    """Mean wait for a free slot, seconds; infinite from full utilisation on.

    Source: Sakasegawa's approximation for m servers, rho^(sqrt(2 (m + 1)) - 1) / (m (1 - rho)) x (ca^2 + cs^2) / 2.
    """
    rho = np.minimum(utilization, 1.0)
    slots = np.maximum(lane.slots, 1.0)
    residence_s = point.prefill_s + lane.decode_steps * point.step_s
    spread = (arrival_squared_cv + lane.prompt_squared_cv) / 2.0
    with np.errstate(divide="ignore"):
        return np.asarray(rho ** (np.sqrt(2.0 * (slots + 1.0)) - 1.0) / (slots * (1.0 - rho)) * spread * residence_s)


def closed_prompt_wait_s(prompt_load: FloatArray, prompt_s: FloatArray, clients: FloatArray) -> FloatArray:
    """Mean wait for prompts ahead in a closed loop, seconds: bounded, since at most the other clients are ahead."""
    others = np.maximum(clients - 1.0, 0.0)
    # Requests come back spaced by the completions: half of the variability of random arrivals.
    queued = 0.5 * others * prompt_load / (prompt_load + np.maximum(clients, 1.0) * (1.0 - prompt_load))
    return np.asarray(queued * prompt_s)


def frontend_wait_s(lane: Lane, point: OperatingPoint) -> FloatArray:
    """Time that a request and its first token wait for the API server, which sends a step's tokens one by one."""
    busy = np.minimum(point.requests_per_second * lane.streaming_s, _BUSIEST_FRONTEND)
    sent = point.decoding * lane.messages / (1.0 + lane.decode_steps)
    return np.asarray(sent * lane.frontend_token_s / (1.0 - busy))


def streaming_wait_s(
    lane: Lane, point: OperatingPoint, arrival_squared_cv: FloatArray, answer_squared_cv: FloatArray
) -> FloatArray:
    """Mean wait for what the API server still has to send of answers before, seconds.

    Source: Kingman's approximation, as in `prompt_wait_s`, with an answer's streaming as the service. Answers come
    spread over their decoding, though, and only a backlog that outlives it (in heavy traffic one takes the service time
    over the squared idle share to drain) does not even out in that.
    """
    idle = np.maximum(1.0 - point.requests_per_second * lane.streaming_s, 1e-9)
    work_s = (arrival_squared_cv + answer_squared_cv) / 2.0 * lane.streaming_s
    draining_s = work_s / idle**2
    decoding_s = lane.decode_steps * lane.empty.decode_step_s
    lasting = draining_s / np.maximum(draining_s + decoding_s, 1e-12)
    return np.asarray((1.0 - idle) / idle * work_s * lasting)


def startup_wait_s(lane: Lane, clients: FloatArray) -> FloatArray:
    """Mean wait of the requests that a closed loop sends at once at its start, seconds."""
    ahead = np.maximum(np.minimum(clients, lane.slots) - 1.0, 0.0)
    return 0.5 * ahead * lane.queued_prompt_s


def batch_makespan_s(
    lane: Lane, requests: FloatArray, most_requests_per_second: FloatArray, output_log_sd: FloatArray
) -> FloatArray:
    """Time from the first step to the last token of so many requests that are all at hand at the start, seconds.

    What exceeds the slots passes at the lane's best rate. The rest is one wave: its prompts one after the other, then
    its decoding, of which the last answer is the longest of the wave (mean of the largest of n lognormal lengths).
    """
    wave = np.minimum(requests, lane.slots)
    prompts_s = wave * lane.queued_prompt_s
    # Largest of n normal values: about sqrt(2 ln n), less its second-order term. Source: Cramer, 28.6.
    spread = np.sqrt(2.0 * np.log(np.maximum(wave, 1.0)))
    longest = np.exp(np.maximum(spread - 0.5, 0.0) * output_log_sd - output_log_sd**2 / 2.0)
    even = decode_step_s(lane, wave)
    # While the longest answers run on, the batch thins out: on average half of it is left.
    thin = decode_step_s(lane, np.maximum(wave / 2.0, 1.0))
    tail_s = lane.decode_steps * (even + np.maximum(longest - 1.0, 0.0) * thin)
    engine_s = prompts_s + tail_s + (requests - wave) / most_requests_per_second
    return lane.request_s + np.maximum(engine_s, lane.queued_prompt_s + requests * lane.streaming_s)


def decode_step_s(lane: Lane, sequences: FloatArray) -> FloatArray:
    """A step of so many sequences without prompt tokens, seconds."""
    return _step(lane, sequences, np.zeros_like(sequences))


@dataclass(frozen=True, slots=True)
class _Curve:
    """The lane on the grid of y: each of shape (n, points)."""

    y: FloatArray
    requests_per_second: FloatArray
    point: OperatingPoint
    full_y: FloatArray
    """The largest y, shape (n,): where slots, the token budget or the API server are used up."""
    most: FloatArray
    """Most requests per second, shape (n,)."""


def _curve(lane: Lane) -> tuple[Lane, _Curve]:
    y = largest_requests_per_step(lane)[:, None] * _GRID
    wide = lane.on_grid()
    point = at(wide, y)
    # A denser batch never lowers what the engine can do: it would simply not be made.
    rate = np.maximum.accumulate(point.requests_per_second, axis=1)
    full_y, most = y[:, -1], rate[:, -1]
    streamed = most * lane.streaming_s > 1.0
    if streamed.any():
        full_y, most = full_y.copy(), most.copy()
        most[streamed] = 1.0 / lane.streaming_s[streamed]
        full_y[streamed] = _reached(y[streamed], rate[streamed], most[streamed])
    return wide, _Curve(y, rate, point, full_y, most)


def _reached(y: FloatArray, rate: FloatArray, wanted: FloatArray) -> FloatArray:
    """Where rates that rise along rows reach what is wanted; the time of a step is linear between two points."""
    rows = np.arange(len(y))
    upper = np.argmax(rate >= wanted[:, None], axis=1)
    lower = np.maximum(upper - 1, 0)
    low_y = np.where(upper > 0, y[rows, lower], 0.0)
    high_y, high_s = y[rows, upper], y[rows, upper] / rate[rows, upper]
    slope = np.where(upper > 0, (high_s - y[rows, lower] / rate[rows, lower]) / (high_y - low_y), 0.0)
    found = (high_s - slope * high_y) / np.maximum(1.0 / wanted - slope, 1e-12)
    return np.asarray(np.clip(found, low_y, high_y))


def solve(
    lane: Lane, load: FloatArray, of: NDArray[np.intp], *, refined: bool = True
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Requests per step under each load, the largest possible, and the most requests per second; shapes (n,).

    Parameters
    ----------
    lane : Lane, arrays of shape (m,)
    load : array of shape (n,)
        Requests per second where `lane.open_loop` is 1, otherwise clients at the lane or on their way to it.
    of : array of shape (n,)
        The lane of each load: equal lanes under several loads are worked out once.
    refined : bool
        False for those who correct what they get anyway: less work, and up to 5 % off.

    Above the most, the full lane's y is returned: requests pile up, or the other clients wait.
    """
    wide, curve = _curve(lane)
    values = curve.requests_per_second[of]
    is_closed = lane.open_loop[of] == 0
    if is_closed.any():
        rows = of[is_closed]
        share, one_s = prompt_load(wide, curve.point), wide.queued_prompt_s
        wait_s = closed_prompt_wait_s(share[rows], one_s[rows], load[is_closed][:, None])
        inside = curve.y * (wide.decode_steps + curve.point.chunks)
        away_s = lane.request_s[rows][:, None] + wait_s
        present = inside[rows] + curve.point.requests_per_second[rows] * away_s
        values[is_closed] = np.maximum.accumulate(present, axis=1)
    bracket = _bracket(values, curve.y[of], np.asarray(load, dtype=np.float64))
    if refined:
        picked = lane.rows(of)
        for _ in range(_REFINEMENTS):
            y = bracket.y
            bracket = bracket.narrowed(y, _held(picked, y, load))
    full_y = curve.full_y[of]
    return np.minimum(bracket.y, full_y), full_y, curve.most[of]


def _held(lane: Lane, y: FloatArray, load: FloatArray) -> FloatArray:
    """What a lane holds at y in the unit of its load: requests per second, or clients at it and on their way."""
    point = at(lane, y)
    wait_s = closed_prompt_wait_s(prompt_load(lane, point), lane.queued_prompt_s, np.maximum(load, 1.0))
    present = y * (lane.decode_steps + point.chunks) + point.requests_per_second * (lane.request_s + wait_s)
    return np.where(lane.open_loop > 0, point.requests_per_second, present)


@dataclass(frozen=True, slots=True)
class _Bracket:
    """Two values of y around the one at which the load is reached, and what the lane holds at each; shapes (n,)."""

    load: FloatArray
    low_y: FloatArray
    low: FloatArray
    high_y: FloatArray
    high: FloatArray

    @property
    def y(self) -> FloatArray:
        """Where the load is reached, by linear interpolation."""
        width = self.high - self.low
        share = np.divide(self.load - self.low, width, out=np.ones_like(width), where=width > 1e-12 * self.high)
        return np.asarray(self.low_y + np.clip(share, 0.0, 1.0) * (self.high_y - self.low_y))

    def narrowed(self, y: FloatArray, held: FloatArray) -> "_Bracket":
        """The side of y on which the load is reached; what is held is kept between the bracket's ends."""
        value = np.clip(held, self.low, np.maximum(self.low, self.high))
        below = value < self.load
        return _Bracket(
            self.load,
            np.where(below, y, self.low_y),
            np.where(below, value, self.low),
            np.where(below, self.high_y, y),
            np.where(below, self.high, value),
        )


def _bracket(values: FloatArray, y: FloatArray, load: FloatArray) -> _Bracket:
    """The points around the load among values that rise along the rows."""
    n, points = values.shape
    upper = np.minimum((values < load[:, None]).sum(axis=1), points - 1)
    rows = np.arange(n)
    lower = np.maximum(upper - 1, 0)
    low = np.where(upper > 0, values[rows, lower], 0.0)
    low_y = np.where(upper > 0, y[rows, lower], 0.0)
    return _Bracket(load, low_y, low, y[rows, upper], values[rows, upper])
