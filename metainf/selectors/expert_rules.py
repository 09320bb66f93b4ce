"""If-then rules that a person who knows vLLM would follow, without any learning.

Separate, as each selector is: it shows what a learner has to beat besides single best. The rules read a handful of
named meta-features, and say from where each is known; figures are of others' measurements or our own on CPU.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from metainf.selectors.base import BaseSelector
from metainf.selectors.contract import BoolArray, FloatArray, MethodTable, TaskTable

__all__ = ["RULES", "ExpertRules", "Rule"]

Named = Mapping[str, FloatArray]

_FEW = math.log(4.5)  # clients
_LOW_LOAD = math.log(8.5)
_HIGH_LOAD = math.log(63.5)
_FP8_CACHE_PAYS = math.log(7000)  # tokens of context. Source: vLLM blog 2026-04-22, break-even of an FP8 KV cache


@dataclass(frozen=True, slots=True)
class Rule:
    """Where `when` holds, the first feasible one of `methods` is preferred. `why` names the source."""

    methods: tuple[str, ...]
    features: tuple[str, ...]
    when: Callable[[Named], BoolArray]
    why: str


def _clients_at_most(named: Named, log_clients: float) -> BoolArray:
    loop = (named["load_is_rate"] == 0) & (named["load_is_batch"] == 0)
    return np.asarray(loop & (named["load_requests"] <= log_clients))


_LOAD = ("load_is_rate", "load_is_batch", "load_requests")

RULES = (
    Rule(
        ("fp8-weights-mtp",),
        (*_LOAD, "hw_fp8_speedup"),
        lambda f: _clients_at_most(f, _LOW_LOAD) & (f["hw_fp8_speedup"] > 0),
        "FP8 and one MTP draft 1.63 times at low load, FP8 alone 1.51 (GPUStack, Qwen3.5-35B-A3B on H200)",
    ),
    Rule(
        ("mtp", "eagle"),
        _LOAD,
        lambda f: _clients_at_most(f, _LOW_LOAD),
        "trained drafts 1.6 to 2 times at low load, slower at high load (vLLM blogs 2024-10-17, 2026-05-26)",
    ),
    Rule(
        ("ngram",),
        (*_LOAD, "repetitiveness"),
        lambda f: _clients_at_most(f, _FEW) & (f["repetitiveness"] > 0.75),
        "1.9 to 2.1 times for one client with repetitive text, a loss without (our CPU runs, vLLM 0.32.0)",
    ),
    Rule(
        ("fp8-weights-kv", "fp8-weights"),
        ("hw_fp8_speedup", "input_tokens_mean", "kv_pressure"),
        lambda f: (f["hw_fp8_speedup"] > 0) & ((f["input_tokens_mean"] > _FP8_CACHE_PAYS) | (f["kv_pressure"] > 0)),
        "FP8 KV 14.9 % at 20k tokens, 2.6 times where the cache is full (vLLM blog 2026-04-22)",
    ),
    Rule(
        ("fp8-weights-throughput", "fp8-weights"),
        ("hw_fp8_speedup", "load_is_batch", "load_requests"),
        lambda f: (f["hw_fp8_speedup"] > 0) & ((f["load_is_batch"] > 0) | (f["load_requests"] > _HIGH_LOAD)),
        "FP8 stacks with larger steps, 17 to 33 % (GPUStack, throughput profiles)",
    ),
    Rule(
        ("fp8-weights",),
        ("hw_fp8_speedup",),
        lambda f: f["hw_fp8_speedup"] > 0,
        "FP8 weights 15 to 27 % with FP8 units; without them weight-only FP8 loses (GPUStack, Qwen3-8B)",
    ),
    Rule(
        ("kv-offload",),
        ("prefix_pressure", "prefix_token_share"),
        lambda f: (f["prefix_pressure"] > math.log(2.0)) & (f["prefix_token_share"] > 0.3),
        "host memory pays where what is reused exceeds the cache, loses without reuse (vLLM blog 2026-01-08, GPUStack)",
    ),
    Rule(
        ("fp8-kv",),
        ("kv_pressure", "input_tokens_mean"),
        lambda f: (f["kv_pressure"] > 0) | (f["input_tokens_mean"] > _FP8_CACHE_PAYS),
        "twice the sequences where the cache is what binds (vLLM blog 2026-04-22)",
    ),
    Rule(
        ("long-prefill-threshold",),
        ("input_tokens_log_sd", "load_is_rate"),
        lambda f: (f["input_tokens_log_sd"] > 1.0) & (f["load_is_rate"] > 0),
        "short prompts overtake long ones: TTFT p95 a tenth where lengths are mixed (our CPU runs, vLLM 0.32.0)",
    ),
    Rule(
        ("throughput", "performance-throughput"),
        ("load_is_batch", "load_requests"),
        lambda f: (f["load_is_batch"] > 0) | (f["load_requests"] > _HIGH_LOAD),
        "more sequences at once under high load (our CPU runs; vLLM docs, configuration/optimization)",
    ),
)
"""In order: the first that holds and one of whose methods can run; then the default, then the simplest."""


class ExpertRules(BaseSelector):
    """The rules' order, as scores. Rules about methods that the table does not have are left out.

    Parameters
    ----------
    rules : tuple of Rule
    """

    def __init__(self, rules: tuple[Rule, ...] = RULES) -> None:
        self.rules = rules

    def _fit(self, table: MethodTable) -> None:
        """Nothing to learn, but say at once which feature is missing.

        Raises
        ------
        ValueError
            A rule reads a feature that the table does not have.
        """
        self.rules_ = tuple(rule for rule in self.rules if set(rule.methods) & set(table.tasks.methods))
        needed = {name for rule in self.rules_ for name in rule.features}
        missing = sorted(needed - set(table.tasks.feature_names))
        if missing:
            raise ValueError(f"following the expert rules needs features that the table lacks: {', '.join(missing)}")

    def _scores(self, tasks: TaskTable) -> FloatArray:
        named = dict(zip(tasks.feature_names, tasks.features.T, strict=True))
        simplicity = -np.asarray(tasks.complexity, dtype=np.float64)
        simplicity[tasks.default] = simplicity.max() + 1.0
        scores = np.tile(simplicity, (len(tasks), 1))
        top = simplicity.max()
        for rule in reversed(self.rules_):
            holds = rule.when(named)
            for method in reversed(rule.methods):
                if method in tasks.methods:
                    top += 1.0
                    scores[holds, tasks.methods.index(method)] = top
        return scores
