"""What a request waits for besides its own steps: prompts ahead, slots, the API server, a closed loop's start.

Separate from the state of a lane (`queueing`), which holds for any order of arrivals: these are approximations of
queueing theory on top of it, each by its name.
"""

import numpy as np

from metainf.queueing import FloatArray, Lane, OperatingPoint

__all__ = [
    "STARTUP_SHARE",
    "fitting_ratio",
    "frontend_wait_s",
    "prompts_waited_for",
    "slot_wait_s",
    "startup_wait_s",
    "step_wait_ratio",
    "streaming_wait_s",
    "together_ratio",
]

STARTUP_SHARE = 0.1
"""Share of a closed loop's requests that are sent at once at its start.

Source: public serving benchmarks send ten requests per client and start all clients together (InferenceX,
`num_prompts = 10 x max_concurrency`).
"""

_BUSIEST_STEP = 0.9
_BUSIEST_FRONTEND = 0.9  # beyond it clients see lumps of tokens, not later ones


def prompts_waited_for(lane: Lane, load: FloatArray, arrival_squared_cv: FloatArray, busy: FloatArray) -> FloatArray:
    """Mean wait for prompts ahead, in what one of them takes.

    `load` is the share of time that prompts take, `arrival_squared_cv` that of the lane's own arrivals, and `busy` the
    share of these that find others (`bursts`).

    Source: GI/M/1, busy / (1 - busy) service times, with the variation of service from Kingman's approximation, which
    it becomes in heavy traffic: rho / (1 - rho) x (ca^2 + cs^2) / 2. Several ranks by the ratio of Sakasegawa's, see
    `slot_wait_s`.
    """
    ca = arrival_squared_cv
    load = np.maximum(load, 1e-12)
    one = busy / (1.0 - busy) * (ca + lane.waiting_squared_cv) / (ca + 1.0)
    servers = lane.servers / lane.ranks
    if np.any(servers > 1.0):
        one = one * _waiting(load, servers) * (1.0 - load) / load
    return one * together_ratio(lane, load)


def together_ratio(lane: Lane, load: FloatArray) -> FloatArray:
    """What waits grow by because prompts in one step all end with it: those behind a request delay it as well.

    Source: M/G/1 with gated batches that end together, (1 + 2 rho) / (1 + rho) times the wait of one after the other.
    As far as a step's budget holds more than one; where prompts are cut to share steps it is in `waiting_squared_cv`.
    """
    rho = np.minimum(load, 1.0) * fitting_ratio(lane)
    return np.asarray((1.0 + 2.0 * rho) / (1.0 + rho))


def step_wait_ratio(lane: Lane, load: FloatArray) -> FloatArray:
    """Mean wait for the end of a step over a step that only decodes: half of one where no prompts come.

    Source: as above, (1/2 + rho) / (1 - rho): a step grows with the prompts that came in the one before.
    """
    rho = np.minimum(load, _BUSIEST_STEP) * fitting_ratio(lane)
    return np.asarray((0.5 + rho) / (1.0 - rho))


def fitting_ratio(lane: Lane) -> FloatArray:
    """From 0 where no two prompts fit into a step to 1 where any number does."""
    alone = np.minimum(lane.prompt_tokens / np.maximum(lane.budget_tokens, 1.0), 1.0)
    return np.asarray((1.0 - alone) * (1.0 - np.asarray(lane.fair_prompts)))


def _waiting(load: FloatArray, servers: FloatArray) -> FloatArray:
    """Wait in service times, at squared variations of 1."""
    with np.errstate(divide="ignore"):
        return np.asarray(load ** (np.sqrt(2.0 * (servers + 1.0)) - 1.0) / (servers * (1.0 - load)))


def slot_wait_s(
    lane: Lane, point: OperatingPoint, utilization: FloatArray, arrival_squared_cv: FloatArray
) -> FloatArray:
    """Mean wait for a free slot, seconds; infinite from full utilisation on.

    Source: Sakasegawa's approximation for m servers, rho^(sqrt(2 (m + 1)) - 1) / (m (1 - rho)) x (ca^2 + cs^2) / 2.
    """
    rho = np.minimum(utilization, 1.0)
    slots = np.maximum(lane.slots, 1.0) * lane.servers * lane.stages
    residence_s = point.prefill_s + lane.decode_steps * point.step_s
    spread = (arrival_squared_cv + lane.prompt_squared_cv) / 2.0
    return _waiting(rho, slots) * spread * residence_s


def frontend_wait_s(lane: Lane, point: OperatingPoint) -> FloatArray:
    """Time that a request and its first token wait for the API server, which sends a step's tokens one by one."""
    busy = np.minimum(point.requests_per_second * lane.streaming_s, _BUSIEST_FRONTEND)
    sent = point.decoding * lane.messages / (1.0 + lane.decode_steps)
    return np.asarray(sent * lane.frontend_token_s / (1.0 - busy))


def streaming_wait_s(
    lane: Lane, point: OperatingPoint, arrival_squared_cv: FloatArray, answer_squared_cv: FloatArray
) -> FloatArray:
    """Mean wait for what the API server still has to send of answers before, seconds.

    Source: Kingman's approximation, as in `prompts_waited_for`, with an answer's streaming as the service. Answers come
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
