"""From a replica to the scheduler's limits."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from metainf.accelerators import get
from metainf.efficiencies import GENERIC
from metainf.known_models import known_model
from metainf.layouts import Layout
from metainf.memory import memory_plan, offload_copies, with_room_for
from metainf.methods import effective_settings
from metainf.predictors.contract import ReplicaSpec
from metainf.settings import EngineSettings, Speculation, SpeculationKind
from metainf.simulator import EngineModel, KvGroup, Requests, simulate
from metainf.simulator.builder import engine_model
from metainf.step_times.roofline import roofline_step_times
from metainf.workload import Repetitiveness

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
FULL = KvGroup()


def replica(
    model: str = LLAMA,
    accelerator: str = "H100-SXM-80GB",
    layout: Layout | None = None,
    settings: EngineSettings | None = None,
    max_model_len: int | None = 8192,
) -> ReplicaSpec:
    architecture, device, layout = known_model(model), get(accelerator), layout or Layout()
    assert architecture is not None and device is not None
    resolved = effective_settings(
        settings or EngineSettings(),
        architecture=architecture,
        accelerator=device,
        layout=layout,
        max_model_len=max_model_len,
    )
    return ReplicaSpec(architecture, device, layout, resolved)


def test_holds_as_many_tokens_as_the_memory_plan_says_but_for_the_placeholder():
    spec = replica()
    engine = engine_model(spec)
    capacity = memory_plan(spec).kv_capacity_tokens
    assert capacity - 2 * engine.block_tokens <= engine.kv_blocks * engine.block_tokens <= capacity


def test_a_larger_token_budget_leaves_fewer_blocks():
    small, large = (
        engine_model(replica(settings=EngineSettings(max_num_batched_tokens=tokens))).kv_blocks
        for tokens in (2048, 65536)
    )
    assert large < small


def test_copies_of_kv_heads_do_not_add_room():
    # 8 KV heads over 16 ranks: each rank holds one whole head, as with 8.
    eight, sixteen = (
        engine_model(replica("meta-llama/Llama-3.1-405B-Instruct", "H200-SXM-141GB", Layout(tensor_parallel=tp)))
        for tp in (8, 16)
    )
    assert eight.offload_block_s == sixteen.offload_block_s > 0  # bytes of a block, in time


@pytest.mark.parametrize(
    ("model", "accelerator", "groups"),
    [
        pytest.param(LLAMA, "H100-SXM-80GB", (FULL,), id="one table for equal layers"),
        pytest.param("mistralai/Mistral-7B-v0.1", "H100-SXM-80GB", (KvGroup(4096),), id="all layers with a window"),
        pytest.param("openai/gpt-oss-20b", "H100-SXM-80GB", (KvGroup(128), FULL), id="12 with a window, 12 without"),
        pytest.param(
            "google/gemma-3-27b-it",
            "H100-SXM-80GB",
            (KvGroup(1024),) * 6 + (FULL,),
            id="52 with a window in groups of 10, the last with padding, and 10 without",
        ),
        pytest.param(
            "Qwen/Qwen3.5-35B-A3B", "H200-SXM-141GB", (KvGroup(state=True),) * 3 + (FULL,), id="30 states, 10 full"
        ),
        pytest.param("deepseek-ai/DeepSeek-V2-Lite", "H100-SXM-80GB", (FULL,), id="latent attention"),
    ],
)
def test_layers_that_look_back_alike_share_a_table(model: str, accelerator: str, groups: tuple[KvGroup, ...]):
    assert engine_model(replica(model, accelerator)).groups == groups


@pytest.mark.parametrize(
    ("model", "accelerator", "same_step"),
    [
        pytest.param("Qwen/Qwen2.5-7B-Instruct", "H100-SXM-80GB", True, id="attention alone"),
        pytest.param("Qwen/Qwen3.5-35B-A3B", "H200-SXM-141GB", False, id="recurrent states"),
    ],
)
def test_a_prefix_is_hit_in_the_step_that_computes_it_unless_a_state_is_needed(
    model: str, accelerator: str, same_step: bool
):
    assert engine_model(replica(model, accelerator)).same_step_hits is same_step


def test_ranks_of_experts_step_together_and_others_do_not():
    experts = engine_model(
        replica("deepseek-ai/DeepSeek-V3", "H200-SXM-141GB", Layout(data_parallel=8, expert_parallel=True))
    )
    dense = engine_model(replica(layout=Layout(data_parallel=2)))
    assert (experts.data_parallel, experts.lock_step) == (8, True)
    assert (dense.data_parallel, dense.lock_step) == (2, False)
    assert engine_model(replica(layout=Layout(pipeline_parallel=2))).pipeline_stages == 2


def test_drafts_are_accepted_as_text_of_that_kind_has_it_or_as_told():
    drafting = replica(settings=EngineSettings(speculation=Speculation(SpeculationKind.NGRAM, 4)))
    low = engine_model(drafting, repetitiveness=Repetitiveness.LOW)
    high = engine_model(drafting, repetitiveness=Repetitiveness.HIGH)
    assert low.draft_tokens == high.draft_tokens == 4
    assert low.acceptance_ratio < high.acceptance_ratio
    assert engine_model(drafting, acceptance_ratio=0.33).acceptance_ratio == 0.33
    assert (engine_model(replica()).draft_tokens, engine_model(replica()).acceptance_ratio) == (0, 0.0)


def test_a_head_accepts_less_at_long_contexts():
    drafting = replica(settings=EngineSettings(speculation=Speculation(SpeculationKind.EAGLE, 3)))
    unknown, short, long = (engine_model(drafting, context_tokens=n).acceptance_ratio for n in (None, 1000.0, 9000.0))
    assert unknown == short > long > 0.0


@pytest.mark.parametrize("kv_ratio", [0.9, 1.0, 1.07])
def test_a_cache_can_be_other_than_planned(kv_ratio: float):
    planned, found = engine_model(replica()).kv_blocks, engine_model(replica(), kv_ratio=kv_ratio).kv_blocks
    assert found == pytest.approx(kv_ratio * planned, abs=2)


def test_a_cache_of_the_size_that_is_asked_for_is_of_that_size():
    asked = replica(settings=EngineSettings(kv_cache_memory_bytes=4 << 30))
    assert engine_model(asked, kv_ratio=0.9).kv_blocks == engine_model(asked).kv_blocks


def test_the_longest_request_fits_wherever_the_plan_has_room_for_it():
    spec = replica(max_model_len=int(memory_plan(replica(max_model_len=8192)).kv_capacity_tokens) // 16 * 16 - 64)
    engine = engine_model(spec, kv_ratio=0.5)
    assert engine.kv_blocks * engine.block_tokens >= spec.settings.max_model_len


def test_settings_are_taken_over():
    settings = EngineSettings(
        prefix_caching=False, max_num_seqs=7, long_prefill_token_threshold=300, kv_offload_bytes=1 << 30
    )
    engine = engine_model(replica(settings=settings))
    assert isinstance(engine, EngineModel)
    assert (engine.max_num_seqs, engine.long_prefill_token_threshold, engine.prefix_caching) == (7, 300, False)
    # 128 KiB per token in 16 bits, 2 MiB per block of 16.
    assert engine.offload_blocks == 512


def test_without_memory_left_there_is_no_block():
    assert engine_model(replica("meta-llama/Llama-3.1-70B-Instruct")).kv_blocks == 0


@pytest.mark.parametrize(
    ("model", "accelerator", "layout", "speculation"),
    [
        pytest.param("google/gemma-3-27b-it", "H100-SXM-80GB", Layout(), None, id="windows"),
        pytest.param(
            "openai/gpt-oss-120b", "H100-SXM-80GB", Layout(tensor_parallel=2), None, id="windows in every other"
        ),
        pytest.param(
            "Qwen/Qwen3.5-27B", "A100-SXM-80GB", Layout(), Speculation(SpeculationKind.MTP, 3), id="states of drafts"
        ),
        pytest.param("Qwen/Qwen3-8B", "L4-PCIe-24GB", Layout(), None, id="all tokens"),
    ],
)
@pytest.mark.parametrize("longest", [2000.0, 20000.0])
def test_whatever_fits_the_context_that_an_engine_is_told_is_served(
    model: str, accelerator: str, layout: Layout, speculation: Speculation | None, longest: float
) -> None:
    def asked(max_model_len: int | None) -> ReplicaSpec:
        return replica(model, accelerator, layout, EngineSettings(speculation=speculation), max_model_len)

    found = with_room_for(longest, asked)
    if not isinstance(found, ReplicaSpec):
        assert found.short_bytes(longest) > 0
        return
    context = found.settings.max_model_len
    assert memory_plan(found).missing_bytes(context) == 0
    engine = engine_model(found)
    alone = Requests(np.zeros(1), np.array([context - 2]), np.array([2]))
    steps = roofline_step_times(found, GENERIC)
    assert not np.isnan(simulate(engine, steps, alone).last_token_s).any()


def test_host_memory_holds_latent_attention_once_and_other_caches_for_each_rank() -> None:
    offloading, eight = EngineSettings(kv_offload_bytes=32 << 30), Layout(tensor_parallel=8)
    latent, heads = (
        offload_copies(replica(name, "H200-SXM-141GB", eight, offloading))
        for name in ("deepseek-ai/DeepSeek-V3", "meta-llama/Llama-3.1-70B-Instruct")
    )
    assert (latent, heads) == (1, 8)


@given(
    spec=st.sampled_from([replica(), replica("Qwen/Qwen3-30B-A3B"), replica("openai/gpt-oss-20b")]),
    factor=st.floats(1.0, 4.0),
    lengths=st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 60)), min_size=1, max_size=12),
)
@hypothesis_settings(max_examples=50, deadline=None)
def test_an_offline_batch_is_never_slower_with_more_memory_bandwidth(
    spec: ReplicaSpec, factor: float, lengths: list[tuple[int, int]]
) -> None:
    bytes_per_s = factor * spec.accelerator.memory_bandwidth_bytes_per_s
    faster = replace(spec, accelerator=replace(spec.accelerator, memory_bandwidth_bytes_per_s=bytes_per_s))
    inputs, outputs = np.array(lengths).T
    batch = Requests(np.zeros(len(lengths)), inputs, outputs)
    slow, fast = (simulate(engine_model(each), roofline_step_times(each, GENERIC), batch) for each in (spec, faster))
    assert (slow.preemptions.sum(), fast.preemptions.sum()) == (0, 0)
    assert (slow.steps, slow.computed_tokens) == (fast.steps, fast.computed_tokens)
    assert fast.makespan_s <= slow.makespan_s * (1 + 1e-9)
