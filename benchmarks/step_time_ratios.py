"""Measures how the tables of step times lie around the roofline: refits the numbers of `metainf.step_times.ratios`.

    python benchmarks/step_time_ratios.py --store FOLDER

FOLDER holds sampled tables; where aiconfigurator-core 0.12.0 is installed, missing ones are sampled into it. Every
bundled model is asked for on every device with tables, in tensor-parallel layouts of 1 to 8 and, for mixtures, with
experts spread. Means weigh devices equally. Variances are of the means of devices, of models on a device, and of
layouts of those, each split into what all nodes share and what is a node's own. With --formats also how far the ratios
move where weights or cache are in FP8 in place of the checkpoint's format, of the same model, device and layout, taken
apart in the same way. Experts in FP8 are read from the library's own rows (--rows FOLDER, its systems/data), since its
tables price another kernel than that of weights which are quantised while loading.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from metainf import accelerators
from metainf.accelerators import Accelerator
from metainf.architecture import ModelArchitecture
from metainf.dtypes import DType
from metainf.efficiencies import GENERIC
from metainf.engine_defaults import effective_settings
from metainf.known_models import known_model, known_model_ids
from metainf.layers import MlpKind, Part, Split
from metainf.layouts import Layout
from metainf.predictors.contract import FloatArray, ReplicaSpec
from metainf.settings import EngineSettings
from metainf.simulator.contract import StepTimes
from metainf.step_times import lookup
from metainf.step_times.measured import measured_tables
from metainf.step_times.oracle import SYSTEMS, TableRefusal
from metainf.step_times.ratios import CHUNK, DECODE, DENSE, EXPERT, MIXTURE
from metainf.step_times.roofline import RooflineParts, roofline_parts
from metainf.step_times.store import TableStore

_LAYOUTS = (1, 2, 4, 8)
_CONTEXT_TOKENS = 16384
_MOST_MEMORY_RATIO = 1.6  # weights that exceed a device's memory by more are asked of nobody


def replicas(models: Sequence[ModelArchitecture], device: str) -> Iterator[ReplicaSpec]:
    """Every model in every layout that could hold it."""
    accelerator = accelerators.get(device)
    assert accelerator is not None, f"{device} has tables and is in the catalogue"
    for model in models:
        layouts = [Layout(tp) for tp in _LAYOUTS]
        if any(group.layer.mlp and group.layer.mlp.kind is MlpKind.MOE for group in model.layer_groups):
            layouts += [Layout(4, expert_parallel=True), Layout(8, expert_parallel=True)]
            layouts.append(Layout(data_parallel=8, expert_parallel=True))
        for layout in layouts:
            if 2.0 * model.parameters / layout.accelerators > _MOST_MEMORY_RATIO * accelerator.memory_bytes:
                continue
            yield _replica(model, accelerator, layout, EngineSettings())


def _replica(model: ModelArchitecture, accelerator: Accelerator, layout: Layout, asked: EngineSettings) -> ReplicaSpec:
    settings = effective_settings(
        replace(asked, max_model_len=_CONTEXT_TOKENS), architecture=model, accelerator=accelerator, layout=layout
    )
    return ReplicaSpec(model, accelerator, layout, settings)


def distinct_models() -> list[ModelArchitecture]:
    """Bundled models of which no two have the same shapes."""
    found: dict[tuple[object, ...], ModelArchitecture] = {}
    for name in known_model_ids():
        model = known_model(name)
        assert model is not None
        key = (model.architecture, model.parameters, model.layers, model.hidden_size, model.quantization)
        found.setdefault(key, model)
    return list(found.values())


def log_ratios(kernels: StepTimes, parts: RooflineParts, ranks: int) -> dict[str, FloatArray]:
    """log(table / roofline) at the nodes of each operation; infinite or NaN where the model has no such operation."""
    tokens = np.array(DENSE.nodes)
    everyone = np.array(EXPERT.nodes) * ranks
    reads = np.array(DECODE.nodes)
    sequences = np.array([1.0, 4.0, 32.0, 128.0])
    chunks = np.array([128.0, 512.0, 2048.0, 4096.0])
    before = np.maximum(np.array(CHUNK.nodes) / chunks - chunks / 2.0, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        plain = np.log(lookup.token_s(kernels, tokens) / parts.token_s(tokens))
        is_mixture, unknown = parts.expert_floor_s > 0, np.full(len(tokens), np.nan)
        return {
            DENSE.name: unknown if is_mixture else plain,
            MIXTURE.name: plain if is_mixture else unknown,
            EXPERT.name: np.log(lookup.expert_s(kernels, everyone) / parts.expert_s(everyone)),
            DECODE.name: np.log(
                lookup.decode_s(kernels, sequences, reads / sequences) / parts.decode_s(sequences, reads / sequences)
            ),
            CHUNK.name: np.log(lookup.chunk_s(kernels, chunks, before) / parts.chunk_s(chunks, before)),
        }


def split(values: FloatArray) -> tuple[float, float]:
    """Standard deviation of the rows' means, and of what is left; shape (rows, nodes), rows of mean zero."""
    shared = values.mean(axis=1)
    return float(shared.std()), float((values - shared[:, None]).std())


def decomposed(keys: Sequence[tuple[str, str]], values: FloatArray) -> str:
    """The fields of a Ratio, printed."""
    devices = sorted({device for device, _ in keys})
    of_device = np.array([values[[k[0] == device for k in keys]].mean(axis=0) for device in devices])
    mean = of_device.mean(axis=0)
    rest = values - of_device[[devices.index(k[0]) for k in keys]]
    pairs = sorted(set(keys))
    of_pair = np.array([rest[[k == pair for k in keys]].mean(axis=0) for pair in pairs])
    left = rest - of_pair[[pairs.index(k) for k in keys]]
    parts = [split(of_device - mean), split(of_pair), split(left)]
    shown = ", ".join(f"({shared:.2f}, {own:.2f})" for shared, own in parts)
    return f"({', '.join(f'{m:.2f}' for m in mean)}), {shown}"


_DYNAMIC_FP8 = EngineSettings(quantization=DType.FP8)
_IN_FP8: Mapping[str, tuple[EngineSettings, tuple[str, ...]]] = {
    "weights": (_DYNAMIC_FP8, (DENSE.name, MIXTURE.name)),
    "cache": (EngineSettings(kv_cache_dtype=DType.FP8), (DECODE.name, CHUNK.name)),
}
"""What is narrowed, and the operations that it concerns."""

_EXPERT_ROWS: Mapping[str, tuple[str, str, str]] = {
    "H200-SXM-141GB": ("h200_sxm", "0.24.0", "0.19.0"),
    "B200-SXM-180GB": ("b200_sxm", "0.24.0", "0.22.0"),
    "L40S-PCIe-48GB": ("l40s", "0.24.0", "0.24.0"),
}
"""Device -> system, and the versions of vLLM whose rows are of the kernels that it takes for experts in 16 bits and in
FP8 with dynamic scales: Triton for the latter, whatever it takes by default for the former. Other devices have none."""
_ROUTING = "power_law_1.2"  # how the library spreads tokens over experts unless it is told otherwise


def narrowed(replica: ReplicaSpec, asked: EngineSettings) -> ReplicaSpec:
    """The replica with weights or cache in FP8."""
    return _replica(replica.architecture, replica.accelerator, replica.layout, asked)


def print_formats(store: TableStore, models: Sequence[ModelArchitecture], every: int) -> None:
    """How far each operation's ratio moves in FP8."""
    moved: dict[str, list[tuple[tuple[str, str], FloatArray]]] = {}
    for device in SYSTEMS:
        for replica in list(replicas(models, device))[::every]:
            plain = measured_tables(replica, store)
            for asked, names in _IN_FP8.values():
                narrow = narrowed(replica, asked)
                narrow_tables = measured_tables(narrow, store)
                if isinstance(plain, TableRefusal) or isinstance(narrow_tables, TableRefusal):
                    continue
                formats = ((s.weight_dtype, s.kv_cache_dtype) for s in (replica.settings, narrow.settings))
                if len(set(formats)) == 1:
                    continue  # the checkpoint has it so
                ranks = replica.layout.data_parallel
                before = log_ratios(plain.kernels, roofline_parts(replica, GENERIC), ranks)
                after = log_ratios(narrow_tables.kernels, roofline_parts(narrow, GENERIC), ranks)
                for name in names:
                    change = after[name] - before[name]
                    if np.isfinite(change).all():
                        moved.setdefault(name, []).append(((device, replica.architecture.name), change))
    for name, found in moved.items():
        keys, changes = zip(*found, strict=True)
        print(f"{name} in FP8, {len(found)} pairs of tables: {decomposed(keys, np.array(changes))}")


def expert_rows(folder: Path, system: str, version: str, dtype: str) -> Mapping[tuple[int, ...], Mapping[int, float]]:
    """Milliseconds by tokens, of each hidden size, expert's width, experts per token, experts and ranks."""
    path = folder / system / "moe" / "vllm" / version / "moe_perf.parquet"
    wanted = [("moe_dtype", "=", dtype), ("moe_ep_size", "=", 1), ("distribution", "=", _ROUTING)]
    found: dict[tuple[int, ...], dict[int, float]] = {}
    for row in pq.read_table(path, filters=wanted).to_pylist():
        key = tuple(row[name] for name in ("hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size"))
        found.setdefault(key, {})[row["num_tokens"]] = row["latency"]
    return found


def log_times(row: Mapping[int, float]) -> FloatArray:
    """Logarithms of a row's times at the nodes of experts."""
    tokens = sorted(row)
    return np.interp(np.log(EXPERT.nodes), np.log(tokens), np.log([row[each] for each in tokens]))


def expert_changes(folder: Path, models: Sequence[ModelArchitecture]) -> Iterator[tuple[tuple[str, str], FloatArray]]:
    """How far the ratio of experts moves in FP8, by device and model, for each number of ranks that was measured."""
    tokens = np.array(EXPERT.nodes)
    for device, (system, plain_version, narrow_version) in _EXPERT_ROWS.items():
        accelerator = accelerators.get(device)
        assert accelerator is not None, f"{device} is in the catalogue"
        plain_rows = expert_rows(folder, system, plain_version, "bfloat16")
        narrow_rows = expert_rows(folder, system, narrow_version, "fp8")
        seen: set[tuple[int, ...]] = set()
        for model in models:
            linears = (linear for group in model.layer_groups for linear in group.layer.linears)
            down = next((each for each in linears if each.part is Part.EXPERT and each.split is Split.ROW), None)
            if down is None or model.quantization is not None:
                continue
            replica = _replica(model, accelerator, Layout(), EngineSettings())
            plain, narrow = (roofline_parts(each, GENERIC) for each in (replica, narrowed(replica, _DYNAMIC_FP8)))
            expected = np.log(narrow.expert_s(tokens) / plain.expert_s(tokens))
            for ranks in _LAYOUTS:
                key = (down.out_features, down.in_features, down.active_copies, down.copies, ranks)
                if key in plain_rows and key in narrow_rows and key not in seen:
                    seen.add(key)
                    yield (device, model.name), log_times(narrow_rows[key]) - log_times(plain_rows[key]) - expected


def main() -> None:
    """Sample what is missing, print the constants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="folder of sampled tables")
    parser.add_argument("--every", type=int, default=1, help="take every Nth deployment of each device")
    parser.add_argument("--formats", action="store_true", help="say what FP8 changes, and nothing else")
    parser.add_argument("--rows", type=Path, help="systems/data of aiconfigurator-core: experts in FP8 too")
    arguments = parser.parse_args()
    store = TableStore(arguments.store)
    models, counts = distinct_models(), Counter[str]()
    if arguments.formats:
        print_formats(store, models, arguments.every)
        if arguments.rows is not None:
            keys, changes = zip(*expert_changes(arguments.rows, models), strict=True)
            print(f"{EXPERT.name} in FP8, {len(keys)} pairs of rows: {decomposed(keys, np.array(changes))}")
        return
    keys: list[tuple[str, str]] = []
    rows: list[dict[str, FloatArray]] = []
    launches: list[float] = []
    for device in SYSTEMS:
        for replica in list(replicas(models, device))[:: arguments.every]:
            found = measured_tables(replica, store)
            if isinstance(found, TableRefusal):
                counts[found.reason] += 1
                continue
            counts["tables"] += 1
            keys.append((device, replica.architecture.name))
            parts = roofline_parts(replica, GENERIC)
            rows.append(log_ratios(found.kernels, parts, replica.layout.data_parallel))
            launches.append(found.kernels.prompt_step_s / replica.architecture.layers)
    print(dict(counts))
    for name in (DENSE.name, MIXTURE.name, EXPERT.name, DECODE.name, CHUNK.name):
        values = np.array([row[name] for row in rows])
        fine = np.isfinite(values).all(axis=1)
        chosen = [key for key, is_fine in zip(keys, fine, strict=True) if is_fine]
        print(f"{name}, {fine.sum()} tables: {decomposed(chosen, values[fine])}")
    logs = np.log([launch for launch in launches if launch > 0])
    print(f"launch: {np.exp(np.median(logs)) * 1e6:.1f} us a layer, log standard deviation {logs.std():.2f}")


if __name__ == "__main__":
    main()
