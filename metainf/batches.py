"""How long a batch takes whose requests are all at hand at the start.

Separate from the state of a lane (`queueing`), since a batch has a beginning and an end.
"""

import numpy as np

from metainf.queueing import FloatArray, Lane, decode_step_s

__all__ = ["batch_makespan_s"]


def batch_makespan_s(
    lane: Lane,
    requests: FloatArray,
    most_requests_per_second: FloatArray,
    output_log_sd: FloatArray,
    all_requests: FloatArray,
) -> FloatArray:
    """Time from the first step to the last token of so many requests that are all at hand at the start, seconds.

    What exceeds the slots passes at the lane's best rate. The rest is one wave: its prompts one after the other, then
    its decoding, of which the last answer is the longest of the waves of all lanes of a replica (mean of the largest of
    n lognormal lengths); a batch of `all_requests` may not fill these.
    """
    wave = np.minimum(requests, lane.slots)
    prompts_s = wave * lane.queued_prompt_s
    # Largest of n normal values: about sqrt(2 ln n), less its second-order term. Source: Cramer, 28.6.
    waves = np.minimum(wave * lane.servers * lane.stages, np.maximum(all_requests, wave))
    spread = np.sqrt(2.0 * np.log(np.maximum(waves, 1.0)))
    longest = np.exp(np.maximum(spread - 0.5, 0.0) * output_log_sd - output_log_sd**2 / 2.0)
    even = decode_step_s(lane, wave)
    # A third of a wave's answers is longer than the mean; those that run on thin out as time goes to the last.
    some = np.maximum(wave / 3.0, 1.0)
    thin = decode_step_s(lane, some / np.maximum(np.log(some), 1.0))
    tail_s = lane.decode_steps * (even + np.maximum(longest - 1.0, 0.0) * thin)
    engine_s = prompts_s + tail_s + (requests - wave) / most_requests_per_second
    return lane.request_s + np.maximum(engine_s, lane.queued_prompt_s + requests * lane.streaming_s)
