"""A mean-field model of the continuous-batching engine: load in, operating point and latency distributions out.

Separate from the predictors so that its laws can be tested on plain arrays: more load is never faster, and latency is
infinite exactly where the load exceeds the capacity.

The state of one lane (a data-parallel rank or a pipeline stage's worth of one, see `roofline`) is one number, the
requests that pass per step, y. By Little's law y x (steps of decoding) sequences decode at a time and y x (prompt
tokens) are in a step on average; from these the mean step time s(y) follows, and the lane completes y / s(y) requests
per second. Slots (KV cache, `max_num_seqs`) and the token budget bound y. Loads are inverted on a grid of y.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from metainf.roofline import INTERACTIVITY_TOKENS, StepModel, mapped, step_time_s

__all__ = [
    "Lane",
    "OperatingPoint",
    "alone_prompt_s",
    "at",
    "closed_prompt_wait_s",
    "decode_step_s",
    "largest_requests_per_step",
    "limiting_rate",
    "prompt_load",
    "share_of_any",
    "solve",
]

FloatArray = NDArray[np.float64]

_GRID = np.geomspace(1e-3, 1.0, 12)
"""Shares of the largest y between which a load is looked for."""
_REFINEMENTS = 2  # looks between two of them: 99 of 100 answers are then within 0.2 % of one on a grid of 2,000


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
    fair_prompts: FloatArray
    """1 where long prompts are cut so that all that wait share the steps, 0 where they come one after the other."""
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
    request_s: FloatArray
    """Client to engine and back, per request, outside of the engine's steps."""
    ranks: FloatArray
    """Data-parallel ranks that step together, this one among them: those of a mixture of experts."""
    stages: FloatArray
    """Lanes that pass through one pipeline, one after the other: they share a queue and an API server's process."""
    servers: FloatArray
    """Data-parallel ranks among which a balancer picks the one with the least to do."""
    open_loop: FloatArray
    """1 where requests arrive on their own: one meets a sequence more than the mean; 0 for closed loops."""

    def on_grid(self) -> "Lane":
        """The same with a trailing axis of length 1."""
        return self._picked(lambda values: values[:, None])

    def rows(self, index: NDArray[np.intp]) -> "Lane":
        """The lanes that `index` picks."""
        return self._picked(lambda values: values[index])

    def _picked(self, change: Callable[[FloatArray], FloatArray]) -> "Lane":
        """The lane with every array changed, and with what was worked out of it."""
        rest = (change(np.asarray(getattr(self, f.name))) for f in fields(Lane)[1:])
        picked = Lane(mapped(self.steps, change), *rest)
        picked.__dict__.update(bunching=change(self.bunching), queued_prompt_s=change(self.queued_prompt_s))
        return picked

    @cached_property
    def empty(self) -> "OperatingPoint":
        """The lane when next to nothing passes."""
        return at(self, np.full_like(self.slots, 1e-9))

    @cached_property
    def streaming_s(self) -> FloatArray:
        """Time of the lane's part of an API server that one answer takes: no lane completes more than one in each."""
        return np.asarray(self.messages * self.frontend_token_s * self.stages)

    @cached_property
    def bunching(self) -> FloatArray:
        """Sequences in a step over those of evenly filled lanes: 1 but in pipelines of more than two stages.

        While a prompt's chunk takes the first stage, the batches that come back wait, and go on as one. A prompt makes
        one batch more and merges the share of them that come back in its time, so about two over that share are left.
        """
        even = np.ones_like(self.stages)
        if not np.any(self.stages > 2.0):
            return even
        one = np.where(self.decode_steps > 0, 1.0, 0.0)
        chunk = np.minimum(self.prompt_tokens, np.minimum(self.chunk_tokens, self.budget_tokens))
        decode_s, prompt_s = _step(self, one, np.stack([np.zeros_like(chunk), chunk]), even)
        caught = np.minimum(prompt_s / (self.stages * decode_s), 1.0)
        return np.asarray(np.maximum(self.stages * caught / 2.0, 1.0))

    @property
    def waiting_squared_cv(self) -> FloatArray:
        """Squared variation of what a prompt waits for.

        Where prompts share the steps it is as if they were exponential, whatever their lengths. Source: the mean time
        in M/G/1 with processor sharing, service over 1 - rho, which is that of M/M/1.
        """
        return np.where(np.asarray(self.fair_prompts) > 0, 1.0, self.prompt_squared_cv)

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
    """Share of the steps that are held up by a prompt of the lane's own."""
    held_share: FloatArray
    """The same for a prompt of any lane that goes along with this one: what is between two chunks waits for them."""
    chunk_tokens: FloatArray
    """Prompt tokens in such a step, of one prompt or several."""
    chunks: FloatArray
    """Steps, as long as those with a chunk, that one prompt takes."""

    @property
    def step_s(self) -> FloatArray:
        """Mean time of a step."""
        return self.decode_step_s + self.held_share * (self.prompt_step_s - self.decode_step_s)

    @property
    def prefill_s(self) -> FloatArray:
        """Steps of one mean prompt."""
        return self.chunks * self.prompt_step_s


def _whole_chunk(lane: Lane) -> FloatArray:
    """Tokens of a prompt that a step takes where nothing else is in it."""
    return np.asarray(np.minimum(np.minimum(lane.prompt_tokens, lane.chunk_tokens), lane.budget_tokens))


def largest_requests_per_step(lane: Lane) -> FloatArray:
    """The y at which slots or the token budget are used up."""
    by_slots = lane.slots / (lane.decode_steps + lane.prompt_tokens / _whole_chunk(lane))
    by_budget = lane.budget_tokens / (lane.prompt_tokens + lane.decode_steps * lane.tokens_per_sequence)
    return np.minimum(by_slots, by_budget)


def at(lane: Lane, requests_per_step: FloatArray, bunching: FloatArray | None = None) -> OperatingPoint:
    """The lane's state when so many requests pass per step; `bunching` where it is not that of the lane."""
    y = requests_per_step
    decoding = y * lane.decode_steps
    per_step = y * lane.prompt_tokens
    # One request never meets less than itself; where arrivals are random it meets one more than the mean (PASTA).
    bunching = lane.bunching if bunching is None else bunching
    met = np.minimum(np.maximum(decoding * bunching + lane.open_loop, 1.0), np.maximum(lane.slots * bunching, 1.0))
    met = np.where(lane.decode_steps > 0, met, 0.0)
    room = np.maximum(lane.budget_tokens - decoding * lane.tokens_per_sequence, 1.0)
    chunk = np.maximum(np.minimum(np.minimum(lane.prompt_tokens, lane.chunk_tokens), room), per_step)
    share = np.minimum(per_step / chunk, 1.0)
    carrying = None
    if np.any(lane.ranks > 1.0):
        some = share_of_any(share, lane.ranks)
        carrying = np.where(some > 1e-6, lane.ranks * share / np.maximum(some, 1e-6), 1.0)
    decode_s, with_chunk_s = _step(lane, met, np.stack([np.zeros_like(chunk), chunk]), carrying)
    prompt_s = np.maximum(with_chunk_s, decode_s)
    chunks = np.maximum(lane.prompt_tokens / chunk, 1.0)
    held = share
    if carrying is not None or np.any(lane.stages > 1.0):
        # The chunks of one prompt follow each other into a pipeline, so others are held up for less than all of them.
        # What fills the pipeline is a chunk as it is without others: smaller ones beside more sequences gain nothing.
        chunks = (chunks + (lane.stages - 1.0) * np.maximum(_whole_chunk(lane) / chunk, 1.0)) / lane.stages
        own = np.minimum(y * chunks, share)
        held, share = np.maximum(share_of_any(own, lane.ranks * lane.stages), share), own
    step_s = decode_s + held * (prompt_s - decode_s)
    return OperatingPoint(y, y / step_s, decoding, decode_s, prompt_s, share, held, chunk, chunks)


def share_of_any(share: FloatArray, lanes: FloatArray) -> FloatArray:
    """Share of the steps in which any of so many lanes has what each has in a share of its own."""
    return np.asarray(1.0 - np.exp(lanes * np.log(np.maximum(1.0 - share, 1e-300))))


def _step(
    lane: Lane, sequences: FloatArray, prompt_tokens: FloatArray, prompt_lanes: FloatArray | None = None
) -> FloatArray:
    time_s = step_time_s(
        lane.steps,
        sequences,
        lane.context_tokens,
        prompt_tokens,
        lane.prompt_context_tokens,
        tokens_per_sequence=lane.tokens_per_sequence,
        prompt_lanes=prompt_lanes,
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


def closed_prompt_wait_s(prompt_load: FloatArray, prompt_s: FloatArray, clients: FloatArray) -> FloatArray:
    """Mean wait for prompts ahead in a closed loop, seconds: bounded, since at most the other clients are ahead."""
    others = np.maximum(clients - 1.0, 0.0)
    # Requests come back spaced by the completions: half of the variability of random arrivals.
    queued = 0.5 * others * prompt_load / (prompt_load + np.maximum(clients, 1.0) * (1.0 - prompt_load))
    return np.asarray(queued * prompt_s)


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
    limit = limiting_rate(lane)
    bound = most > limit
    if bound.any():
        full_y, most = full_y.copy(), most.copy()
        most[bound] = limit[bound]
        full_y[bound] = _reached(y[bound], rate[bound], most[bound])
    return wide, _Curve(y, rate, point, full_y, most)


def limiting_rate(lane: Lane) -> FloatArray:
    """Requests per second that the lane cannot exceed for reasons beyond its steps.

    An API server streams one message after the other. And in a pipeline with all slots taken whoever waits only takes
    places in the batches that there are: as many as the first requests filled with the budgets of their prompts.
    """
    with np.errstate(divide="ignore"):
        limit = np.asarray(1.0 / lane.streaming_s)
    if np.any(lane.stages > 1.0):
        full_y = largest_requests_per_step(lane)
        filled = np.minimum(lane.budget_tokens / (lane.slots * lane.prompt_tokens), lane.stages)
        taken_slots = full_y * lane.decode_steps / lane.slots
        crowded = at(lane, full_y, np.maximum(filled * taken_slots, lane.bunching)).requests_per_second
        limit = np.where(filled > lane.bunching, np.minimum(limit, crowded), limit)
    return limit


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
