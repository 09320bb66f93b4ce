import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from metainf import accelerators
from metainf.corpus.worlds import RooflineWorld
from metainf.dtypes import DType
from metainf.engine_defaults import effective_settings
from metainf.known_models import known_model
from metainf.layouts import Layout
from metainf.predictors.contract import ReplicaSpec
from metainf.settings import EngineSettings, PerformanceMode, Speculation, SpeculationKind
from metainf.step_times.hosts import MEASURED_HOST
from metainf.step_times.latent import Latent
from metainf.step_times.lookup import step_s
from metainf.step_times.roofline import roofline_step_times
from metainf.step_times.store import TableStore
from metainf.step_times.worlds import HiddenWorld, TableWorld

LLAMA, MOE = "meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-30B-A3B"
ONE, DEFAULTS = Layout(), EngineSettings(max_model_len=8192)


def replica(
    model: str = LLAMA, gpu: str = "H100-SXM-80GB", layout: Layout = ONE, asked: EngineSettings = DEFAULTS
) -> ReplicaSpec:
    architecture, accelerator = known_model(model), accelerators.get(gpu)
    assert architecture is not None
    assert accelerator is not None
    resolved = effective_settings(asked, architecture=architecture, accelerator=accelerator, layout=layout)
    return ReplicaSpec(architecture, accelerator, layout, resolved)


def seconds(world: HiddenWorld, spec: ReplicaSpec) -> float:
    return float(step_s(world.step_times(spec), 16.0, 1000.0))


def test_a_world_is_the_same_in_every_process() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_step_times_worlds as t; "
        "print(repr(t.seconds(t.HiddenWorld(3), t.replica())))"
    )
    folder = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert float(done.stdout) == seconds(HiddenWorld(3), replica())


def test_worlds_differ_and_so_do_accelerators_in_them() -> None:
    specs = [replica(), replica(gpu="A100-SXM-80GB")]
    plain = [float(step_s(roofline_step_times(spec, MEASURED_HOST), 16.0, 1000.0)) for spec in specs]
    ratios = np.array([[seconds(HiddenWorld(seed), spec) for spec in specs] for seed in range(3)]) / plain
    assert len(np.unique(ratios.round(3))) == ratios.size


def test_methods_of_one_deployment_share_their_world() -> None:
    world = HiddenWorld(0)
    plain = world.step_times(replica())
    wide = world.step_times(replica(asked=EngineSettings(max_model_len=8192, max_num_batched_tokens=16384)))
    assert np.array_equal(plain.token_s, wide.token_s)
    assert plain.fixed_s == wide.fixed_s


@pytest.mark.parametrize(
    ("asked", "kept", "changed"),
    [
        pytest.param({"kv_cache_dtype": DType.FP8}, ("token_s", "expert_s"), ("decode_s",), id="a narrower cache"),
        pytest.param({"quantization": DType.FP8}, ("decode_s", "chunk_s"), ("token_s",), id="narrower weights"),
    ],
)
@pytest.mark.parametrize("model", [LLAMA, MOE])
def test_a_format_changes_what_reads_it_and_nothing_else(
    model: str, asked: dict[str, DType], kept: tuple[str, ...], changed: tuple[str, ...]
) -> None:
    world = HiddenWorld(0)
    plain = world.step_times(replica(model))
    narrow = world.step_times(replica(model, asked=replace(DEFAULTS, **asked)))
    for name in kept:
        np.testing.assert_array_equal(getattr(plain, name), getattr(narrow, name), err_msg=name)
    for name in changed:
        assert not np.array_equal(getattr(plain, name), getattr(narrow, name)), name


@pytest.mark.parametrize(
    ("name", "asked"), [("decode_s", {"kv_cache_dtype": DType.FP8}), ("token_s", {"quantization": DType.FP8})]
)
def test_what_a_format_does_differs_from_world_to_world_and_hangs_on_the_device(
    name: str, asked: dict[str, DType]
) -> None:
    def change(seed: int, gpu: str) -> float:
        plain, narrow = (replica(gpu=gpu, asked=replace(DEFAULTS, **each)) for each in ({}, asked))
        world = HiddenWorld(seed)
        of_world, of_roofline = (
            np.log(getattr(times(narrow), name).flat[-1] / getattr(times(plain), name).flat[-1])
            for times in (world.step_times, lambda spec: roofline_step_times(spec, MEASURED_HOST))
        )
        return float(of_world - of_roofline)

    found = np.array([[change(seed, gpu) for gpu in ("H100-SXM-80GB", "B200-SXM-180GB")] for seed in range(60)])
    assert found.std(axis=0).min() > 0.05
    assert abs(np.corrcoef(found.T)[0, 1]) < 0.5


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({"kv_cache_dtype": DType.FP8}, id="a narrower cache"),
        pytest.param({"quantization": DType.FP8}, id="narrower weights"),
        pytest.param({"speculation": Speculation(SpeculationKind.EAGLE, 3)}, id="a drafter"),
    ],
)
def test_methods_of_one_deployment_share_the_noise_of_a_run(asked: dict[str, object]) -> None:
    world = HiddenWorld(0)
    noise = []
    for spec in (replica(), replica(asked=replace(DEFAULTS, **asked))):
        steps, host = world.times(spec, 7)
        noise.append((steps.scale / world.step_times(spec).scale, host.request_s))
    assert noise[0] == pytest.approx(noise[1], rel=1e-12)


def drafting(kind: SpeculationKind) -> EngineSettings:
    return replace(DEFAULTS, speculation=Speculation(kind, 3))


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(drafting(SpeculationKind.EAGLE), id="drafting"),
        pytest.param(drafting(SpeculationKind.NGRAM), id="drafting, and waiting for the host"),
        pytest.param(replace(DEFAULTS, performance_mode=PerformanceMode.INTERACTIVITY), id="interactivity"),
    ],
)
def test_what_a_method_costs_is_hidden(asked: EngineSettings) -> None:
    def cost_s(seed: int) -> float:
        times = HiddenWorld(seed).step_times(replica(asked=asked))
        plain = HiddenWorld(seed).step_times(replica())
        steps = (float(step_s(each, 8.0, 1000.0)) for each in (times, plain))
        return next(steps) / next(steps)

    found = [cost_s(seed) for seed in range(40)]
    assert len(np.unique(np.round(found, 9))) == 40
    spec = replica(asked=asked)
    steps, _ = RooflineWorld().times(spec, 0) or (None, None)
    again, _ = RooflineWorld().times(spec, 1) or (None, None)
    assert steps is not None
    assert again is not None
    assert (steps.token_s[0], steps.fixed_s, steps.sequence_s) == (again.token_s[0], again.fixed_s, again.sequence_s)


def test_a_drafter_is_the_same_on_every_device_and_another_for_another_model_or_kind() -> None:
    def offset(spec: ReplicaSpec) -> float:
        return HiddenWorld(0).latent(spec).acceptance_offset_logit

    eagle = drafting(SpeculationKind.EAGLE)
    here = offset(replica(asked=eagle))
    assert offset(replica(gpu="A100-SXM-80GB", asked=eagle)) == here
    assert offset(replica(asked=replace(eagle, max_num_seqs=8))) == here
    others = offset(replica(MOE, asked=eagle)), offset(replica(asked=drafting(SpeculationKind.NGRAM)))
    assert len({here, *others}) == 3
    assert offset(replica()) == 0.0


def test_the_cache_is_as_large_for_all_methods_and_some_per_cent_off_what_is_planned() -> None:
    found = np.array([HiddenWorld(seed).latent(replica()).kv_ratio for seed in range(300)])
    assert np.log(found).std() == pytest.approx(0.04, rel=0.15)
    assert np.abs(np.log(found)).max() <= 0.08 + 1e-12
    narrow = replica(asked=replace(DEFAULTS, kv_cache_dtype=DType.FP8))
    assert HiddenWorld(0).latent(narrow).kv_ratio == found[0]
    assert HiddenWorld(0).latent(replica(gpu="H200-SXM-141GB")).kv_ratio != found[0]


def test_who_predicts_has_nothing_hidden_and_tables_are_a_truth(tmp_path: Path) -> None:
    spec = replica(asked=drafting(SpeculationKind.EAGLE))
    assert RooflineWorld().latent(spec) == Latent()
    hidden = TableWorld(TableStore(tmp_path)).latent(spec)
    assert hidden.kv_ratio != 1.0
    assert hidden.acceptance_offset_logit != 0.0


def test_runs_differ_by_noise_alone() -> None:
    world, spec = HiddenWorld(0), replica()
    times = [world.times(spec, seed) for seed in range(200)]
    scales = np.log([steps.scale for steps, _ in times])
    hosts = np.log([host.request_s for _, host in times])
    assert scales.std() == pytest.approx(0.02, rel=0.2)
    assert hosts.std() == pytest.approx(0.04, rel=0.2)
    again, _ = world.times(spec, 7)
    assert again.scale == times[7][0].scale
    assert np.array_equal(again.token_s, times[0][0].token_s)


@given(
    seed=st.integers(0, 1000),
    spec=st.sampled_from([replica(), replica(MOE), replica("openai/gpt-oss-120b", "MI300X-OAM-192GB")]),
    load=st.tuples(st.integers(0, 512), st.integers(0, 30_000), st.integers(1, 8192), st.integers(0, 30_000)),
    more=st.integers(1, 2000),
    which=st.integers(0, 3),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_more_work_is_never_faster_in_any_world(
    seed: int, spec: ReplicaSpec, load: tuple[int, int, int, int], more: int, which: int
) -> None:
    times = HiddenWorld(seed).step_times(spec)
    heavier = [value + more * (place == which) for place, value in enumerate(load)]
    assert float(step_s(times, *heavier)) >= float(step_s(times, *load)) * (1 - 1e-12)


def test_a_table_world_knows_nothing_where_no_table_is(tmp_path: Path) -> None:
    world = TableWorld(TableStore(tmp_path))
    assert world.times(replica(gpu="MI300X-OAM-192GB"), 0) is None
    assert world.source(replica(gpu="MI300X-OAM-192GB")) == ""


def test_names_and_versions_say_which_world() -> None:
    assert HiddenWorld(3).name == "world:3"
    assert HiddenWorld(3).version == HiddenWorld(4).version
    assert TableWorld(TableStore(Path("nowhere"))).name.startswith("table:aiconfigurator-core-")
