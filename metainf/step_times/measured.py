"""Step times from tables of measured operations: sampled once for each model, device, layout and format, then kept.

Separate from `oracle`, which needs the library at hand: whoever has the store can read tables without it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from metainf.efficiencies import GENERIC, Efficiency
from metainf.known_models import known_model_config
from metainf.predictors.contract import ReplicaSpec
from metainf.simulator.contract import StepTimes
from metainf.step_times import oracle
from metainf.step_times.graphs import captured_tokens
from metainf.step_times.lookup import step_s
from metainf.step_times.oracle import CORE_VERSION, SYSTEMS, RefusalReason, TableRefusal
from metainf.step_times.roofline import AS_KNOWN, CostFactors, roofline_parts, with_method_costs
from metainf.step_times.sampling import GRID_VERSION, Engine, sampled
from metainf.step_times.store import MeasuredTables, TableStore

__all__ = [
    "MOST_EXPERT_RATIO",
    "MOST_MEAN_ERROR",
    "mean_error",
    "measured_step_times",
    "measured_tables",
    "relative_errors",
]

FloatArray = NDArray[np.float64]

_DECODES = tuple(product((1, 4, 24, 56, 112, 208, 448), (80, 700, 5000, 40000)))
"""Sequences and contexts at which tables are held against the engine: captured sizes, between the tables' contexts."""
_PROMPTS = tuple(product((40, 144, 368, 900, 2200, 5500, 9000), (0, 900, 7000, 50000)))
"""The same of prompts: tokens, and tokens before them."""

MOST_MEAN_ERROR = 0.02
"""Mean relative error against direct calls at which a table is refused as no sum of its parts.

What is let in lies at 0.3 to 1.8 %, which is interpolation and the launches that a mixed step shares; modules of
latent and of sparse attention can lie far above.
"""

MOST_EXPERT_RATIO = 250.0
"""Time of the experts over the roofline's at which a table is refused.

What is let in is at most 63 times the roofline, on L40S, whose collectives over PCIe are counted with the experts.
Llama 4 Maverick with experts spread over B300, GB200 or GB300 is 1,500 to 6,000 times it from 16 tokens on; the same
without spreading is like any other.
"""


def measured_step_times(
    replica: ReplicaSpec, efficiency: Efficiency, tables: MeasuredTables, factors: CostFactors = AS_KNOWN
) -> StepTimes:
    """The step times of one rank: measured kernels, and the host work and methods' costs that no table has."""
    with_host = replace(
        tables.kernels,
        fixed_s=efficiency.host_s,
        sequence_s=efficiency.sequence_host_s,
        graph_tokens=captured_tokens(replica),
    )
    return with_method_costs(with_host, replica, efficiency, factors)


def measured_tables(
    replica: ReplicaSpec,
    store: TableStore,
    *,
    config: Mapping[str, object] | None = None,
    hf_quant_config: Mapping[str, object] | None = None,
) -> MeasuredTables | TableRefusal:
    """The replica's tables from the store, or sampled into it where the library is installed.

    Parameters
    ----------
    replica : ReplicaSpec
    store : TableStore
    config : mapping, optional
        config.json of the model; by default the bundled one of its name.
    hf_quant_config : mapping, optional
        hf_quant_config.json, where the checkpoint has one.
    """
    refusal = oracle.refusal_of(replica)
    if refusal is not None:
        return refusal
    config = known_model_config(replica.architecture.name) if config is None else config
    if config is None:
        return TableRefusal(RefusalReason.MODEL, f"{replica.architecture.name} has no bundled config")
    facts = _facts(replica, config, hf_quant_config)
    found = store.get(facts)
    if found is None:
        if not oracle.installed():
            return TableRefusal(RefusalReason.NOT_SAMPLED, f"{replica.architecture.name} was not sampled for this")
        found = _sampled(replica, config, hf_quant_config)
        store.put(facts, found)
    if isinstance(found, MeasuredTables) and not _is_plausible(replica, found.kernels):
        message = (
            f"experts of {replica.architecture.name} are priced at over {MOST_EXPERT_RATIO:.0f} times the roofline"
        )
        return TableRefusal(RefusalReason.IMPLAUSIBLE, message)
    return found


def _is_plausible(replica: ReplicaSpec, kernels: StepTimes) -> bool:
    if not kernels.expert_s.any():
        return True
    expected_s = roofline_parts(replica, GENERIC).expert_s(kernels.expert_tokens)
    return bool((kernels.expert_s <= MOST_EXPERT_RATIO * expected_s)[kernels.expert_tokens > 0].all())


def relative_errors(engine: Engine, times: StepTimes, ranks: int) -> tuple[FloatArray, FloatArray]:
    """What the tables say over the engine's own sums, less 1: of decoding steps and of prompts, shape (28,) each."""
    prompts, decodes = range(len(engine.prompt_names)), range(len(engine.decode_names))
    decoding, prompt = [], []
    for sequences, context in _DECODES:
        found = float(step_s(times, sequences, context, all_tokens=ranks * sequences))
        decoding.append(found / engine.decode_s(decodes, sequences, context) - 1.0)
    for tokens, before in _PROMPTS:
        found = float(step_s(times, 0.0, 0.0, tokens, before, all_tokens=ranks * tokens))
        prompt.append(found / engine.prompt_s(prompts, tokens, before) - 1.0)
    return np.array(decoding), np.array(prompt)


def mean_error(engine: Engine, times: StepTimes, ranks: int) -> float:
    """Mean relative error of the tables against the engine's own sums, over decoding steps and prompts."""
    return float(np.mean(np.abs(np.concatenate(relative_errors(engine, times, ranks)))))


def _sampled(
    replica: ReplicaSpec, config: Mapping[str, object], hf_quant_config: Mapping[str, object] | None
) -> MeasuredTables | TableRefusal:
    engine = oracle.compiled(replica, config, hf_quant_config)
    if isinstance(engine, TableRefusal):
        return engine
    lanes = replica.layout.data_parallel
    try:
        kernels = sampled(engine, ranks=lanes)
        error = mean_error(engine, kernels, lanes)
    except Exception as failure:  # a shape that was not measured shows when it is asked for
        return oracle.refused(replica, failure)
    if error > MOST_MEAN_ERROR:
        message = f"tables of {replica.architecture.name} are {error:.1%} off what the library adds up"
        return TableRefusal(RefusalReason.NOT_ADDITIVE, message)
    system = SYSTEMS[replica.accelerator.name]
    return MeasuredTables(
        f"table:aiconfigurator-core-{CORE_VERSION}/vllm-{system.engine_version}/{system.name}", kernels
    )


def _facts(
    replica: ReplicaSpec, config: Mapping[str, object], hf_quant_config: Mapping[str, object] | None
) -> dict[str, object]:
    system = SYSTEMS[replica.accelerator.name]
    text = json.dumps([config, hf_quant_config], sort_keys=True)
    return {
        "core": CORE_VERSION,
        "grid": GRID_VERSION,
        "system": system.name,
        "engine": system.engine_version,
        "config": hashlib.sha256(text.encode()).hexdigest(),
        "layout": replica.layout.name,
        "weights": replica.settings.weight_dtype,
        "cache": replica.settings.kv_cache_dtype,
    }
