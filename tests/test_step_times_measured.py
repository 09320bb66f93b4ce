import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from metainf import accelerators
from metainf.dtypes import DType
from metainf.efficiencies import GENERIC
from metainf.engine_defaults import effective_settings
from metainf.errors import ArtifactError
from metainf.known_models import known_model, known_model_config
from metainf.layouts import Layout
from metainf.predictors.contract import ReplicaSpec
from metainf.settings import EngineSettings
from metainf.step_times import oracle
from metainf.step_times.lookup import step_s
from metainf.step_times.measured import mean_error, measured_step_times, measured_tables, relative_errors
from metainf.step_times.oracle import RefusalReason, TableRefusal
from metainf.step_times.roofline import roofline_step_times
from metainf.step_times.sampling import sampled
from metainf.step_times.store import MeasuredTables, TableStore

ONE, DEFAULTS = Layout(), EngineSettings(max_model_len=8192)
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
needs_oracle = pytest.mark.skipif(not oracle.installed(), reason="aiconfigurator-core is not installed")


def replica(
    model: str = LLAMA, gpu: str = "H100-SXM-80GB", layout: Layout = ONE, asked: EngineSettings = DEFAULTS
) -> ReplicaSpec:
    architecture, accelerator = known_model(model), accelerators.get(gpu)
    assert architecture is not None
    assert accelerator is not None
    resolved = effective_settings(asked, architecture=architecture, accelerator=accelerator, layout=layout)
    return ReplicaSpec(architecture, accelerator, layout, resolved)


@dataclass(frozen=True)
class KnownEngine:
    """Prices in microseconds that a test can add up: 40 a token, 2 a pair, floors of launches, experts and head."""

    prompt_names: Sequence[str] = ("context_qkv_gemm", "context_attention", "context_moe", "context_attention")
    decode_names: Sequence[str] = (
        "generation_qkv_gemm",
        "generation_attention",
        "generation_moe",
        "generation_logits_gemm",
    )

    def prompt_s(self, places: Sequence[int], tokens: int, before: int) -> float:
        half = 25.0 + 1e-3 * tokens * (before + tokens / 2)
        prices = (100.0 + 40.0 * tokens, half, 30.0 * math.sqrt(tokens), half)
        return sum(prices[place] for place in places) / 1e6

    def decode_s(self, places: Sequence[int], sequences: int, context: int) -> float:
        attention = 20.0 + 0.01 * sequences * context
        prices = (100.0 + 40.0 * sequences, attention, 30.0 * math.sqrt(sequences), 200.0 + sequences)
        return sum(prices[place] for place in places) / 1e6


def test_a_known_engine_is_found_again_part_by_part() -> None:
    times = sampled(KnownEngine(), ranks=1)
    assert times.prompt_step_s == pytest.approx(30e-6, rel=0.05)  # 2 x 25 us of prompts, less 20 us in every step
    assert (times.head_s, times.head_row_s) == pytest.approx((200e-6, 1e-6))
    expected = 100 + 40 * 64 + 20 + 0.01 * 64 * 1000 + 30 * 8 + 200 + 64
    assert float(step_s(times, 64.0, 1000.0)) == pytest.approx(expected / 1e6, rel=0.005)


def test_many_short_prompts_pay_for_one_launch() -> None:
    times = sampled(KnownEngine(), ranks=1)
    one = float(step_s(times, 0.0, 0.0, 64.0, 0.0))
    many = float(step_s(times, 0.0, 0.0, 64.0, 0.0, chunks=16))
    tokens = 40.0 * 64 * 15 + 30.0 * (32 - 8) + 15 * (2e-3 * 64 * 32 + 1)
    assert many - one == pytest.approx(tokens / 1e6, rel=0.01)


def test_ranks_share_the_experts() -> None:
    alone, four = (sampled(KnownEngine(), ranks=ranks) for ranks in (1, 4))
    assert float(step_s(four, 32.0, 500.0, all_tokens=128)) == pytest.approx(
        float(step_s(alone, 32.0, 500.0)), rel=0.01
    )


def test_tables_agree_with_an_engine_that_adds_up_and_not_with_one_that_does_not() -> None:
    engine = KnownEngine()
    times = sampled(engine, ranks=1)
    assert mean_error(engine, times, 1) < 0.02
    assert mean_error(engine, replace(times, decode_s=times.decode_s * 4), 1) > 0.02


def test_no_decoding_step_of_an_engine_that_adds_up_is_far_off() -> None:
    engine = KnownEngine()
    decoding, _ = relative_errors(engine, sampled(engine, ranks=1), 1)
    assert decoding.shape == (28,)
    assert np.abs(decoding).max() < 0.005


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        pytest.param(replica(gpu="L4-PCIe-24GB"), RefusalReason.ACCELERATOR, id="no table of the device"),
        pytest.param(replica("Qwen/Qwen3-32B-FP8"), RefusalReason.BLOCK_FP8, id="block-wise FP8 is measured wrongly"),
    ],
)
def test_refuses_without_asking_the_library(spec: ReplicaSpec, reason: RefusalReason, tmp_path: Path) -> None:
    refusal = measured_tables(spec, TableStore(tmp_path))
    assert isinstance(refusal, TableRefusal)
    assert refusal.reason is reason
    assert not list(tmp_path.iterdir())


def test_says_when_nothing_was_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "installed", lambda: False)
    refusal = measured_tables(replica(), TableStore(tmp_path))
    assert isinstance(refusal, TableRefusal)
    assert refusal.reason is RefusalReason.NOT_SAMPLED


@pytest.mark.parametrize(("factor", "plausible"), [(30.0, True), (3000.0, False)])
def test_experts_priced_a_thousand_times_what_they_can_take_are_no_truth(
    factor: float, plausible: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, store = replica("Qwen/Qwen3-30B-A3B"), TableStore(tmp_path)
    roofline = roofline_step_times(spec, GENERIC)
    table = MeasuredTables("table:here", replace(roofline, expert_s=factor * roofline.expert_s))
    monkeypatch.setattr(store, "get", lambda facts: table)
    found = measured_tables(spec, store)
    assert isinstance(found, MeasuredTables) is plausible
    assert plausible or (isinstance(found, TableRefusal) and found.reason is RefusalReason.IMPLAUSIBLE)


FACTS = {"system": "h100_sxm", "layout": "TP1"}


def test_a_table_comes_back_as_it_was_put(tmp_path: Path) -> None:
    kernels = sampled(KnownEngine(), ranks=1)
    TableStore(tmp_path).put(FACTS, MeasuredTables("table:here", kernels))
    found = TableStore(tmp_path).get(FACTS)
    assert isinstance(found, MeasuredTables)
    assert found.source == "table:here"
    for name in ("tokens", "token_s", "decode_s", "chunk_s", "expert_s", "prompt_step_s", "head_s", "head_row_s"):
        assert np.array_equal(getattr(found.kernels, name), getattr(kernels, name))


def test_a_refusal_is_kept_too_and_other_facts_are_not_answered(tmp_path: Path) -> None:
    refusal = TableRefusal(RefusalReason.DATA, "no such shape")
    store = TableStore(tmp_path)
    store.put(FACTS, refusal)
    assert TableStore(tmp_path).get(FACTS) == refusal
    assert store.get({**FACTS, "layout": "TP2"}) is None


@pytest.mark.parametrize("damage", ["truncated", "foreign", "swapped"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    store = TableStore(tmp_path)
    store.put(FACTS, TableRefusal(RefusalReason.DATA, "no such shape"))
    (path,) = tmp_path.iterdir()
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "foreign":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("something.npy", b"else")
    else:
        store.put({**FACTS, "layout": "TP2"}, TableRefusal(RefusalReason.DATA, "another"))
        other = next(each for each in tmp_path.iterdir() if each != path)
        other.replace(path)
    with pytest.raises(ArtifactError, match="reading"):
        TableStore(tmp_path).get(FACTS)


def test_host_work_is_added_to_measured_kernels() -> None:
    tables = MeasuredTables("table:here", sampled(KnownEngine(), ranks=1))
    times = measured_step_times(replica(), GENERIC, tables)
    assert times.fixed_s == pytest.approx(GENERIC.host_s)
    assert times.sequence_s == pytest.approx(GENERIC.sequence_host_s)
    assert times.graph_tokens[-1] == 512


@needs_oracle
@pytest.mark.parametrize(
    ("model", "gpu", "layout"),
    [
        (LLAMA, "H100-SXM-80GB", ONE),
        ("Qwen/Qwen3-30B-A3B", "H100-SXM-80GB", Layout(2, expert_parallel=True)),
        ("mistralai/Mistral-Nemo-Instruct-2407", "L40S-PCIe-48GB", ONE),
    ],
)
def test_sampled_tables_are_within_two_percent_of_direct_calls(model: str, gpu: str, layout: Layout) -> None:
    spec, config = replica(model, gpu, layout), known_model_config(model)
    assert config is not None
    engine = oracle.compiled(spec, config, None)
    assert not isinstance(engine, TableRefusal)
    times = sampled(engine, ranks=1)
    errors = np.abs(np.concatenate(relative_errors(engine, times, 1)))
    mean, p95, most = float(errors.mean()), float(np.quantile(errors, 0.95)), float(errors.max())
    print(f"{model} on {gpu} {layout.name}: mean {mean:.2%}, p95 {p95:.2%}, maximum {most:.2%} of {len(errors)} points")
    assert mean == mean_error(engine, times, 1) < 0.02
    assert p95 < 0.05
    assert most < 0.1


@needs_oracle
@pytest.mark.parametrize(
    ("model", "gpu", "asked"),
    [
        pytest.param("google/gemma-2-9b-it", "H100-SXM-80GB", DEFAULTS, id="an architecture that it does not know"),
        pytest.param(LLAMA, "A100-SXM-80GB", replace(DEFAULTS, quantization=DType.FP8), id="FP8 where there is none"),
    ],
)
def test_what_the_library_raises_becomes_an_answer(model: str, gpu: str, asked: EngineSettings, tmp_path: Path) -> None:
    refusal = measured_tables(replica(model, gpu, asked=asked), TableStore(tmp_path))
    assert isinstance(refusal, TableRefusal)
    assert refusal.reason in (RefusalReason.MODEL, RefusalReason.DATA)
