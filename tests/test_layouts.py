"""Layouts: which exist, which are looked at, and why others cannot be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metainf.accelerators import catalogue, get
from metainf.architecture import ModelArchitecture
from metainf.conflicts import ConflictReason
from metainf.layout_rules import MOST_LAYOUTS, layout_conflicts, layouts_for
from metainf.layouts import Layout
from metainf.rejections import RejectionReason

LLAMA_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}
CONFIGS = {
    "llama": LLAMA_CONFIG,
    "qwen-28-heads": LLAMA_CONFIG
    | {
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 3584,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
    },
    "moe": LLAMA_CONFIG
    | {
        "architectures": ["MixtralForCausalLM"],
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    "blocks": LLAMA_CONFIG
    | {
        "intermediate_size": 1792,
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    },
}
MODELS = {name: ModelArchitecture.from_config(config, name=name) for name, config in CONFIGS.items()}


def device(name):
    accelerator = get(name)
    assert accelerator is not None
    return accelerator


@pytest.mark.parametrize(
    ("layout", "name", "accelerators"),
    [
        pytest.param(Layout(), "TP1", 1, id="one"),
        pytest.param(Layout(tensor_parallel=4), "TP4", 4, id="tensor"),
        pytest.param(Layout(tensor_parallel=2, pipeline_parallel=2), "TP2-PP2", 4, id="tensor and pipeline"),
        pytest.param(Layout(data_parallel=8, expert_parallel=True), "DP8-EP", 8, id="data and experts"),
    ],
)
def test_a_layout_has_a_short_name_and_counts_its_accelerators(layout, name, accelerators):
    assert (layout.name, layout.accelerators) == (name, accelerators)


@pytest.mark.parametrize(
    ("model", "accelerator", "per_node", "expected"),
    [
        pytest.param("llama", "H100-SXM-80GB", 8, "TP1 TP2 TP4 TP8", id="dense and linked -> tensor parallelism"),
        pytest.param("llama", "H100-SXM-80GB", 1, "TP1", id="one accelerator -> one layout"),
        pytest.param("llama", "H100-SXM-80GB", 6, "TP1 TP2 TP4", id="six: powers of two alone"),
        pytest.param(
            "llama", "L40S-PCIe-48GB", 4, "TP1 PP2 TP2 PP4 TP2-PP2 TP4", id="no fast link -> pipeline stages too"
        ),
        pytest.param(
            "llama",
            "A10G-PCIe-24GB",
            8,
            "TP1 PP2 TP2 PP4 TP2-PP2 TP4 PP8 TP2-PP4 TP4-PP2 TP8",
            id="eight without one -> wide tensor parallelism over PCIe as well",
        ),
        pytest.param(
            "qwen-28-heads",
            "A10G-PCIe-24GB",
            8,
            "TP1 PP2 TP2 PP4 TP2-PP2 TP4 PP8 TP2-PP4 TP4-PP2",
            id="but not where heads do not divide",
        ),
        pytest.param(
            "qwen-28-heads", "H100-SXM-80GB", 8, "TP1 TP2 TP4 TP4-PP2", id="heads that do not divide -> stages"
        ),
        pytest.param(
            "moe",
            "H100-SXM-80GB",
            8,
            "TP1 TP2 DP4-EP TP4 TP4-EP DP8-EP TP2-DP4-EP TP8 TP8-EP",
            id="experts -> expert parallelism from four",
        ),
        pytest.param("moe", "L4-PCIe-24GB", 2, "TP1 PP2 TP2", id="experts over PCIe -> no all-to-all"),
        pytest.param("llama", "CPU-x86-64", 8, "TP1", id="a CPU -> one process"),
        pytest.param("llama", "H100-SXM-80GB", 0, "", id="no accelerator -> no layout"),
    ],
)
def test_layouts_that_are_looked_at(model, accelerator, per_node, expected):
    assert " ".join(x.name for x in layouts_for(MODELS[model], device(accelerator), per_node)) == expected


@given(
    st.sampled_from(sorted(MODELS)),
    st.sampled_from([a.name for a in catalogue()]),
    st.integers(min_value=1, max_value=72),
)
def test_layouts_are_few_valid_and_inside_the_node(model, accelerator, per_node):
    layouts = layouts_for(MODELS[model], device(accelerator), per_node)
    assert 1 <= len(layouts) <= MOST_LAYOUTS
    assert len(set(layouts)) == len(layouts)
    assert layouts[0] == Layout()
    for layout in layouts:
        assert layout.accelerators <= per_node
        assert layout_conflicts(layout, MODELS[model], device(accelerator), per_node) == ()


@pytest.mark.parametrize(
    ("model", "accelerator", "layout", "expected"),
    [
        pytest.param("llama", "H100-SXM-80GB", Layout(tensor_parallel=8), None, id="eight ranks of a node of eight"),
        pytest.param(
            "llama", "H100-SXM-80GB", Layout(tensor_parallel=16), ConflictReason.NODE_TOO_SMALL, id="sixteen of eight"
        ),
        pytest.param("llama", "H100-SXM-80GB", Layout(tensor_parallel=0), ConflictReason.NOT_POSITIVE, id="no rank"),
        pytest.param(
            "llama", "H100-SXM-80GB", Layout(tensor_parallel=3), ConflictReason.HEADS_NOT_DIVISIBLE, id="heads by 3"
        ),
        pytest.param(
            "qwen-28-heads",
            "H100-SXM-80GB",
            Layout(tensor_parallel=8),
            ConflictReason.HEADS_NOT_DIVISIBLE,
            id="28 heads by 8",
        ),
        pytest.param(
            "blocks",
            "H100-SXM-80GB",
            Layout(tensor_parallel=4),
            ConflictReason.WIDTH_NOT_DIVISIBLE,
            id="1792 / 4 is no whole number of blocks of 128",
        ),
        pytest.param("llama", "H100-SXM-80GB", Layout(data_parallel=2), ConflictReason.NOT_MOE, id="DP of a dense one"),
        pytest.param(
            "llama",
            "H100-SXM-80GB",
            Layout(tensor_parallel=2, expert_parallel=True),
            ConflictReason.NOT_MOE,
            id="EP of a dense one",
        ),
        pytest.param(
            "moe", "H100-SXM-80GB", Layout(expert_parallel=True), ConflictReason.EXPERTS_NOT_SPREAD, id="EP over one"
        ),
        pytest.param("moe", "H100-SXM-80GB", Layout(data_parallel=2), None, id="experts cut over data-parallel ranks"),
        pytest.param(
            "llama", "CPU-x86-64", Layout(tensor_parallel=2), ConflictReason.CPU_LIMIT, id="two ranks on a CPU"
        ),
    ],
)
def test_why_a_layout_cannot_be(model, accelerator, layout, expected):
    found = layout_conflicts(layout, MODELS[model], device(accelerator), 8)
    assert [c.reason for c in found] == ([] if expected is None else [expected])


def test_more_ranks_than_experts_cannot_spread_them():
    layout = Layout(data_parallel=16, expert_parallel=True)
    found = layout_conflicts(layout, MODELS["moe"], device("GB200-186GB"), 16)
    assert [c.reason for c in found] == [ConflictReason.EXPERTS_NOT_SPREAD]
    assert "8 experts" in found[0].detail and "16 ranks" in found[0].detail


def test_more_stages_than_layers_cannot_be():
    found = layout_conflicts(Layout(pipeline_parallel=64), MODELS["llama"], device("GB200-186GB"), 64)
    assert [c.reason for c in found] == [ConflictReason.LAYERS_TOO_FEW]


def test_mig_slices_hold_whole_replicas_alone():
    whole = device("A100-SXM-80GB")
    partition = whole.mig_partition("3g.40gb", 3, 40)
    assert partition is not None
    slice_ = whole.partitioned(partition)
    assert [x.name for x in layouts_for(MODELS["llama"], slice_, 4)] == ["TP1"]
    found = layout_conflicts(Layout(tensor_parallel=2), MODELS["llama"], slice_, 4)
    assert [c.reason for c in found] == [ConflictReason.NO_FAST_LINK]
    assert found[0].rejection_reason is RejectionReason.LAYOUT_CONFLICT
