"""Steps of the queueing model with a drafter's passes in them.

Separate from the lanes, which put a replica and its traffic together; `metainf.step_times.roofline` does the same to
tables of step times, by the same cost.
"""

import math
from dataclasses import replace

from metainf.roofline import StepModel
from metainf.speculation import DRAFTED_SEQUENCES, DraftCost

__all__ = ["with_drafts"]


def with_drafts(steps: StepModel, cost: DraftCost, host_s: float) -> tuple[StepModel, float, float]:
    """The steps with the drafter's passes, and what these add to each step and for each sequence, seconds."""
    first, every = 1.0 + cost.layers_ratio, 1.0 + cost.every_ratio
    drafted = replace(
        steps,
        fixed_s=steps.fixed_s + cost.every_ratio * (steps.fixed_s - host_s),
        collective_s=steps.collective_s * every,
        token_s=steps.token_s * first,
        link_token_s=steps.link_token_s * first,
        dense_read_s=steps.dense_read_s * first,
        dense_token_s=steps.dense_token_s * first,
        expert_read_s=steps.expert_read_s * first,
        expert_token_s=steps.expert_token_s * first,
        head_read_s=steps.head_read_s * (1.0 + cost.heads_ratio),
        cache_read_s=steps.cache_read_s * every,
        cache_token_s=steps.cache_token_s * every,
        window_read_s=steps.window_read_s * every,
        prompt_pair_s=steps.prompt_pair_s * first,
        prompt_pair_window_s=steps.prompt_pair_window_s * first,
    )
    one_s, many_s = (_layers_s(steps, tokens) for tokens in (1.0, DRAFTED_SEQUENCES))
    more_s = (many_s - one_s) / (DRAFTED_SEQUENCES - 1.0)
    sequence_s = cost.later_ratio * more_s + cost.heads_ratio * steps.head_row_s + cost.sequence_s
    return drafted, cost.later_ratio * one_s + cost.step_s, sequence_s


def _layers_s(m: StepModel, tokens: float) -> float:
    """Products of all layers for so many tokens, with the bytes that they read, and what goes with tokens alone."""
    together = tokens * m.expert_lanes
    pairs = (
        (m.dense_read_s, tokens * m.dense_token_s),
        (-m.expert_read_s * math.expm1(together * m.expert_miss_log), together * m.expert_token_s),
    )
    return tokens * (m.token_s + m.link_token_s) + sum(max(pair) + m.overlap * min(pair) for pair in pairs)
