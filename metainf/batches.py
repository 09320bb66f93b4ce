"""How long a batch takes whose requests are all at hand at the start, and how much of that is luck.

Separate from the state of a lane (`queueing`), since a batch has a beginning and an end.
"""

from dataclasses import dataclass

import numpy as np

from metainf.queueing import FloatArray, Lane, decode_step_s

__all__ = ["batch_luck_log_sd", "batch_makespan_s"]


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
    course = _Course.of(lane, requests, most_requests_per_second, output_log_sd, all_requests)
    tail_s = course.tail_s(lane, np.maximum(course.longest, 1.0))
    return course.makespan_s(lane, course.prompts_s, tail_s, course.rest_s)


def batch_luck_log_sd(
    lane: Lane,
    requests: FloatArray,
    most_requests_per_second: FloatArray,
    log_sd: tuple[FloatArray, FloatArray],
    all_requests: FloatArray,
) -> FloatArray:
    """Standard deviation of the logarithm of the makespan under the draw of lengths, which nobody can know.

    A batch of few requests takes as long as its longest answer, and of lengths that differ much that is anything. Of
    many requests the sum counts, of which chance leaves little.

    Parameters
    ----------
    log_sd : two arrays
        Of the lengths of prompts and of answers, lognormal.
    """
    inputs_log_sd, output_log_sd = log_sd
    course = _Course.of(lane, requests, most_requests_per_second, output_log_sd, all_requests)
    tail_s = course.tail_s(lane, np.maximum(course.longest, 1.0))
    # The largest of n normal values has a standard deviation of 1 for n = 1, .83 for 2, .46 for 64, .37 for 1,024.
    longest = np.exp(output_log_sd / np.sqrt(1.0 + _LARGEST * np.log(np.maximum(course.waves, 1.0))))
    prompts = np.exp(_log_sd_of_mean(inputs_log_sd, course.wave))
    rest = np.exp(_log_sd_of_mean(np.maximum(inputs_log_sd, output_log_sd), requests))

    def log_makespans(sign: float) -> tuple[FloatArray, ...]:
        """With each of the three a standard deviation from what it is on average, one after the other."""
        moved = (
            (course.prompts_s, course.tail_s(lane, course.longest * longest**sign), course.rest_s),
            (course.prompts_s * prompts**sign, tail_s, course.rest_s),
            (course.prompts_s, tail_s, course.rest_s * rest**sign),
        )
        return tuple(np.log(course.makespan_s(lane, *seconds)) for seconds in moved)

    halves = [(more - less) / 2.0 for more, less in zip(log_makespans(1.0), log_makespans(-1.0), strict=True)]
    return np.asarray(np.sqrt(sum(half**2 for half in halves)))


_LARGEST = 0.84
"""Of log n in 1 / variance of the largest of n normal values: within 5 % of the exact one up to n = 4,096."""


def _log_sd_of_mean(log_sd: FloatArray, count: FloatArray) -> FloatArray:
    """Of the mean of so many lognormal values, as if it were lognormal itself (Fenton and Wilkinson)."""
    return np.asarray(np.sqrt(np.log1p(np.expm1(log_sd**2) / np.maximum(count, 1.0))))


@dataclass(frozen=True, slots=True, eq=False)
class _Course:
    """The course of batches on lanes.

    Attributes
    ----------
    wave : requests of a lane that run at once
    waves : those of all lanes of the replica
    prompts_s : of the wave
    longest : its longest answer over the mean one
    even_s, thin_s : of a decoding step of the whole wave, and of what is left of it on the way to the longest answer
    rest_s : of what exceeds the slots
    streaming_s : what handing out the answers takes at least
    """

    wave: FloatArray
    waves: FloatArray
    prompts_s: FloatArray
    longest: FloatArray
    even_s: FloatArray
    thin_s: FloatArray
    rest_s: FloatArray
    streaming_s: FloatArray

    @classmethod
    def of(
        cls,
        lane: Lane,
        requests: FloatArray,
        most_requests_per_second: FloatArray,
        output_log_sd: FloatArray,
        all_requests: FloatArray,
    ) -> "_Course":
        wave = np.minimum(requests, lane.slots)
        # Largest of n normal values: about sqrt(2 ln n), less its second-order term. Source: Cramer, 28.6.
        waves = np.minimum(wave * lane.servers * lane.stages, np.maximum(all_requests, wave))
        spread = np.sqrt(2.0 * np.log(np.maximum(waves, 1.0)))
        longest = np.exp(np.maximum(spread - 0.5, 0.0) * output_log_sd - output_log_sd**2 / 2.0)
        # A third of a wave's answers is longer than the mean; those that run on thin out as time goes to the last.
        some = np.maximum(wave / 3.0, 1.0)
        return cls(
            wave=wave,
            waves=waves,
            prompts_s=wave * lane.queued_prompt_s,
            longest=longest,
            even_s=decode_step_s(lane, wave),
            thin_s=decode_step_s(lane, some / np.maximum(np.log(some), 1.0)),
            rest_s=(requests - wave) / most_requests_per_second,
            streaming_s=requests * lane.streaming_s,
        )

    def tail_s(self, lane: Lane, longest: FloatArray) -> FloatArray:
        """Of decoding the wave, whose longest answer is so many times the mean one."""
        together, alone = np.minimum(longest, 1.0), np.maximum(longest - 1.0, 0.0)
        return np.asarray(lane.decode_steps * (together * self.even_s + alone * self.thin_s))

    def makespan_s(self, lane: Lane, prompts_s: FloatArray, tail_s: FloatArray, rest_s: FloatArray) -> FloatArray:
        """Of all parts."""
        engine_s = prompts_s + tail_s + rest_s
        return np.asarray(lane.request_s + np.maximum(engine_s, lane.queued_prompt_s + self.streaming_s))
