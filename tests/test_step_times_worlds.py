import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from metainf import accelerators
from metainf.engine_defaults import effective_settings
from metainf.known_models import known_model
from metainf.layouts import Layout
from metainf.predictors.contract import ReplicaSpec
from metainf.settings import EngineSettings
from metainf.step_times.hosts import MEASURED_HOST
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
