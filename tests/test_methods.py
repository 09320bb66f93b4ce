"""Methods, techniques and what stands in their way."""

import re
from dataclasses import replace

import pytest

from metainf.accelerators import get
from metainf.architecture import ModelArchitecture
from metainf.dtypes import DType
from metainf.engine_flags import DraftModel, serve_argv
from metainf.engine_versions import flag_catalogue, known_engine_versions
from metainf.errors import InvalidWorkloadError
from metainf.flag_catalogue import FlagCatalogue
from metainf.known_models import known_model
from metainf.layouts import Layout
from metainf.methods import (
    MOST_METHODS,
    ConflictReason,
    Reading,
    Requirement,
    Technique,
    applicable,
    lacking_flags,
    method,
    method_lacks,
    portfolio,
    published,
    remarks,
    techniques_of,
)
from metainf.rejections import RejectionReason
from metainf.settings import EngineSettings, Speculation, SpeculationKind
from metainf.settings_rules import settings_conflicts

BASE = {
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
LATENT = BASE | {
    "architectures": ["DeepseekV3ForCausalLM"],
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "num_hidden_layers": 4,
    "n_routed_experts": 64,
    "num_experts_per_tok": 8,
    "n_shared_experts": 1,
    "moe_intermediate_size": 2048,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "num_nextn_predict_layers": 1,
}
RECURRENT = {
    "architectures": ["Qwen3NextForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 5120,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "vocab_size": 151936,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
    "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
MODELS = {
    "llama": BASE,
    "llama-fp8": BASE | {"quantization_config": {"quant_method": "fp8"}},
    "llama-awq": BASE | {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}},
    "deepseek": LATENT,
    "recurrent": RECURRENT,
}
ARCHITECTURES = {name: ModelArchitecture.from_config(config, name=name) for name, config in MODELS.items()}
ONE = Layout()

ARGV = {
    "default": (),
    "no-prefix-caching": ("--no-enable-prefix-caching",),
    "latency": ("--max-num-batched-tokens", "2048", "--performance-mode", "interactivity"),
    "throughput": ("--max-num-batched-tokens", "16384", "--max-num-seqs", "1024", "--stream-interval", "10"),
    "performance-throughput": ("--performance-mode", "throughput"),
    "small-token-budget": ("--max-num-batched-tokens", "512"),
    "long-prefill-threshold": ("--long-prefill-token-threshold", "512"),
    "few-sequences": ("--max-num-seqs", "32"),
    "ngram": ("--speculative-config", '{"method":"ngram","num_speculative_tokens":4}'),
    "mtp": ("--speculative-config", '{"method":"mtp","num_speculative_tokens":1}'),
    "mtp-3": ("--speculative-config", '{"method":"mtp","num_speculative_tokens":3}'),
    "eagle": (
        "--speculative-config",
        '{"method":"eagle3","model":"org/head","num_speculative_tokens":3,"revision":"abc"}',
    ),
    "kv-offload": ("--kv-offloading-size", "32"),
    "fp8-weights": ("--quantization", "fp8"),
    "fp8-kv": ("--kv-cache-dtype", "fp8"),
    "fp8-weights-kv": ("--quantization", "fp8", "--kv-cache-dtype", "fp8"),
    "fp8-weights-throughput": (
        "--max-num-batched-tokens",
        "16384",
        "--max-num-seqs",
        "1024",
        "--quantization",
        "fp8",
        "--stream-interval",
        "10",
    ),
    "fp8-weights-mtp": (
        "--quantization",
        "fp8",
        "--speculative-config",
        '{"method":"mtp","num_speculative_tokens":1}',
    ),
    "static": ("--no-enable-prefix-caching", "--no-enable-chunked-prefill", "--max-num-seqs", "1"),
    "static-prefix-caching": ("--no-enable-chunked-prefill", "--max-num-seqs", "1"),
    "static-chunked-prefill": ("--no-enable-prefix-caching", "--max-num-seqs", "1"),
    "continuous-batching": ("--no-enable-prefix-caching", "--no-enable-chunked-prefill"),
    "no-chunked-prefill": ("--no-enable-chunked-prefill",),
}


def device(name):
    accelerator = get(name)
    assert accelerator is not None
    return accelerator


def reasons(name, accelerator, model="llama", layout=ONE, **kwargs):
    found = applicable(method(name), ARCHITECTURES[model], device(accelerator), layout, **kwargs)
    return [conflict.reason for conflict in found]


def test_every_method_of_the_portfolio_has_its_golden_arguments():
    assert {m.name for m in portfolio()} == set(ARGV)


@pytest.mark.parametrize("name", ARGV)
def test_a_method_is_spelt_as_its_golden_arguments(name):
    argv = serve_argv(
        model="org/model", layout=ONE, settings=method(name).settings, port=8000, draft=DraftModel("org/head", "abc")
    )
    assert argv == ("org/model", "--port", "8000", *ARGV[name])


def test_the_portfolio_is_small_and_starts_with_the_default():
    methods = portfolio()
    assert len(methods) <= MOST_METHODS
    assert methods[0].name == "default"
    assert methods[0].settings == EngineSettings()


def test_no_two_methods_ask_for_the_same():
    assert len({m.settings for m in portfolio()}) == len(portfolio())


def test_names_are_unique_and_kebab_case():
    names = [n for m in portfolio() for n in (m.name, *m.aliases)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", n) for n in names)


def test_methods_that_came_to_the_same_answer_to_both_names():
    assert method("all-combined") is method("default")
    assert method("batching-chunked-prefill") is method("no-prefix-caching")


def test_an_unknown_method_is_refused_with_the_nearest_name():
    with pytest.raises(InvalidWorkloadError, match=r"'fp8-weight'.*did you mean fp8-weights\?"):
        method("fp8-weight")


def test_an_unknown_version_has_no_portfolio():
    with pytest.raises(InvalidWorkloadError, match=r"0\.19\.0"):
        portfolio("0.19.0")


def without(flag, catalogue, choice=None):
    """The catalogue without a flag, or without one of the flag's choices."""
    flags = {name: spec for name, spec in catalogue.flags.items() if name != flag}
    if choice is not None:
        spec = catalogue.flags[flag]
        flags[flag] = replace(spec, choices=tuple(each for each in spec.choices if each != choice))
    return FlagCatalogue(catalogue.origin, flags)


@pytest.mark.parametrize("version", known_engine_versions())
def test_every_catalogued_version_takes_the_flags_of_every_method(version):
    assert portfolio(version) == portfolio()
    assert [method_lacks(m.name, version) for m in portfolio(version)] == [""] * len(portfolio(version))


@pytest.mark.parametrize(
    ("flag", "choice", "lacking"),
    [
        pytest.param("performance-mode", None, {"latency", "performance-throughput"}, id="no such flag"),
        pytest.param("performance-mode", "interactivity", {"latency"}, id="no such choice"),
        pytest.param("enforce-eager", None, set(), id="a flag of none"),
    ],
)
def test_methods_whose_flags_a_version_lacks_are_not_in_its_portfolio(flag, choice, lacking):
    catalogue = without(flag, flag_catalogue(), choice)
    assert {m.name for m in portfolio() if lacking_flags(m, catalogue)} == lacking
    assert {each for m in portfolio() for each in lacking_flags(m, catalogue)} <= {f"--{flag}"}


def test_naming_a_method_that_a_version_lacks_says_which_flag_it_is_and_who_has_it(monkeypatch):
    trimmed = without("performance-mode", flag_catalogue("0.28.0"))
    monkeypatch.setattr("metainf.methods.flag_catalogue", lambda version: trimmed)
    lacks = method_lacks("latency", "0.28.0")
    assert lacks.startswith("latency needs --performance-mode, and vLLM 0.28.0 has no flag --performance-mode")
    assert method_lacks("default", "0.28.0") == method_lacks("nothing-of-ours", "0.28.0") == ""


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        pytest.param(
            Reading.ALONE,
            ["static-prefix-caching", "static-chunked-prefill", "continuous-batching", "default"],
            id="each alone over one request at a time",
        ),
        pytest.param(
            Reading.ON_BATCHING,
            ["no-chunked-prefill", "no-prefix-caching", "continuous-batching", "default"],
            id="continuous batching always on",
        ),
    ],
)
def test_the_published_four_are_in_the_portfolio_under_both_readings(reading, expected):
    rows = published(reading)
    assert [r.row for r in rows] == ["prefix caching", "chunked prefill", "continuous batching", "all combined"]
    assert [r.method.name for r in rows] == expected


def test_what_is_for_studies_alone_is_experimental():
    experimental = {m.name for m in portfolio() if m.experimental}
    assert experimental == {
        "static",
        "static-prefix-caching",
        "static-chunked-prefill",
        "continuous-batching",
        "no-chunked-prefill",
    }


def test_only_fp8_methods_are_lossy():
    assert {m.name for m in portfolio() if m.lossy} == {m.name for m in portfolio() if "fp8" in m.name}


def test_the_default_is_simplest_and_combinations_are_less_simple_than_their_parts():
    assert min(portfolio(), key=lambda m: m.complexity).name == "default"
    assert method("fp8-weights-kv").complexity > method("fp8-weights").complexity
    assert method("fp8-weights-mtp").complexity > method("mtp").complexity


def test_methods_that_need_more_than_the_model_say_so():
    assert method("eagle").requires == (Requirement.DRAFT_MODEL,)
    assert method("mtp").requires == (Requirement.MTP_LAYERS,)
    assert not method("ngram").requires


def test_techniques_are_read_off_the_settings():
    assert techniques_of(EngineSettings()) == (
        Technique.CONTINUOUS_BATCHING,
        Technique.PREFIX_CACHING,
        Technique.CHUNKED_PREFILL,
    )
    assert method("static").techniques == ()
    assert method("throughput").added == (
        Technique.TOKEN_BUDGET,
        Technique.SEQUENCE_LIMIT,
        Technique.STREAM_INTERVAL,
    )


@pytest.mark.parametrize("technique", Technique)
def test_every_technique_has_facts_a_source_and_flags_of_the_version(technique):
    facts = technique.facts
    assert facts.helps.endswith(".") and facts.hurts.endswith(".") and facts.hardware.endswith(".")
    assert facts.source
    assert facts.flags and set(facts.flags) <= set(flag_catalogue().flags)
    assert set(facts.conflicts) <= {str(t) for t in Technique}


def test_no_method_joins_techniques_that_exclude_each_other():
    pairs = [(a, b) for m in portfolio() for a in m.techniques for b in m.techniques if a.conflicts_with(b)]
    assert pairs == []
    assert Technique.NGRAM_SPECULATION.conflicts_with(Technique.MTP_SPECULATION)


@pytest.mark.parametrize(
    ("name", "accelerator", "model", "expected"),
    [
        pytest.param("default", "T4-PCIe-16GB", "llama", [], id="the default runs on anything"),
        pytest.param("default", "CPU-x86-64", "llama", [], id="and on a CPU"),
        pytest.param("fp8-weights", "H100-SXM-80GB", "llama", [], id="fp8 weights on Hopper"),
        pytest.param("fp8-weights", "A100-SXM-80GB", "llama", [], id="fp8 weights on Ampere, widened"),
        pytest.param(
            "fp8-weights", "V100-SXM-32GB", "llama", [ConflictReason.UNSUPPORTED_PRECISION], id="not on Volta"
        ),
        pytest.param("fp8-weights", "MI300X-OAM-192GB", "llama", [], id="on MI300X"),
        pytest.param(
            "fp8-weights", "MI250-OAM-64GB", "llama", [ConflictReason.UNSUPPORTED_PRECISION], id="not on MI250"
        ),
        pytest.param("fp8-weights", "CPU-x86-64", "llama", [ConflictReason.UNSUPPORTED_PRECISION], id="not on a CPU"),
        pytest.param(
            "fp8-weights", "Gaudi3-OAM-128GB", "llama", [ConflictReason.UNSUPPORTED_PRECISION], id="not on Gaudi"
        ),
        pytest.param(
            "fp8-weights", "H100-SXM-80GB", "llama-fp8", [ConflictReason.ALREADY_QUANTIZED], id="fp8 twice is once"
        ),
        pytest.param(
            "fp8-weights", "H100-SXM-80GB", "llama-awq", [ConflictReason.ALREADY_QUANTIZED], id="not over AWQ"
        ),
        pytest.param("fp8-kv", "L4-PCIe-24GB", "llama", [], id="fp8 cache on Ada"),
        pytest.param(
            "fp8-kv", "A100-SXM-80GB", "llama", [ConflictReason.UNSUPPORTED_PRECISION], id="no fp8 cache on Ampere"
        ),
        pytest.param("fp8-kv", "CPU-x86-64", "llama", [], id="fp8 cache on a CPU"),
        pytest.param(
            "fp8-kv", "CPU-x86-64", "deepseek", [ConflictReason.UNSUPPORTED_PRECISION], id="but not with MLA there"
        ),
        pytest.param("mtp", "H100-SXM-80GB", "llama", [ConflictReason.NO_MTP_LAYERS], id="MTP needs its layers"),
        pytest.param("mtp", "H100-SXM-80GB", "deepseek", [], id="MTP where they are"),
        pytest.param("eagle", "H100-SXM-80GB", "llama", [ConflictReason.NO_DRAFT_MODEL], id="EAGLE needs a head"),
        pytest.param("kv-offload", "H100-SXM-80GB", "llama", [], id="offload from a GPU"),
        pytest.param("kv-offload", "CPU-x86-64", "llama", [ConflictReason.OFFLOAD_CONFLICT], id="not from a CPU"),
        pytest.param("kv-offload", "Gaudi3-OAM-128GB", "llama", [ConflictReason.OFFLOAD_CONFLICT], id="nor Gaudi"),
        pytest.param("latency", "CPU-x86-64", "llama", [ConflictReason.CPU_LIMIT], id="no CUDA graphs on a CPU"),
        pytest.param("no-prefix-caching", "CPU-x86-64", "deepseek", [ConflictReason.SAME_AS_DEFAULT], id="off already"),
        pytest.param("ngram", "CPU-x86-64", "llama", [], id="n-grams anywhere"),
        pytest.param("no-chunked-prefill", "H100-SXM-80GB", "llama", [], id="without chunks a step holds a prompt"),
        pytest.param(
            "no-chunked-prefill",
            "H100-SXM-80GB",
            "recurrent",
            [ConflictReason.CHUNKED_PREFILL_CONFLICT],
            id="a prefix cache of recurrent states needs chunks",
        ),
        pytest.param("continuous-batching", "H100-SXM-80GB", "recurrent", [], id="without that cache it does not"),
    ],
)
def test_what_stands_in_a_methods_way(name, accelerator, model, expected):
    assert reasons(name, accelerator, model) == expected


def test_an_eagle_head_makes_eagle_applicable():
    assert reasons("eagle", "H100-SXM-80GB", draft_model=True) == []


@pytest.mark.parametrize("version", ["0.28.0", "0.30.0", "0.32.0"])
@pytest.mark.parametrize(
    ("name", "possible"),
    [
        pytest.param("Qwen/Qwen3-8B", True, id="Qwen 3"),
        pytest.param("mistralai/Mistral-Nemo-Instruct-2407", True, id="Mistral, a Llama to vLLM"),
        pytest.param("google/gemma-3-27b-it", False, id="Gemma 3"),
        pytest.param("mistralai/Mixtral-8x7B-v0.1", False, id="Mixtral"),
    ],
)
def test_a_head_drafts_only_for_models_that_show_it_their_layers(name, possible, version):
    found = applicable(
        method("eagle"), known_model(name), device("H100-SXM-80GB"), ONE, engine_version=version, draft_model=True
    )
    assert [conflict.reason for conflict in found] == ([] if possible else [ConflictReason.SPECULATION_CONFLICT])
    assert all("has no EAGLE-3 for" in conflict.detail for conflict in found)


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        pytest.param("eagle", "0.28.0", [], id="before"),
        pytest.param("eagle", "0.30.0", [ConflictReason.SPECULATION_CONFLICT], id="a dense head has no experts"),
        pytest.param("mtp", "0.30.0", [], id="the model's own layers have"),
        pytest.param("eagle", "0.32.0", [], id="mended"),
    ],
)
def test_a_head_beside_spread_experts_depends_on_the_version(name, version, expected):
    layout = Layout(tensor_parallel=8, expert_parallel=True)
    found = reasons(name, "H100-SXM-80GB", "deepseek", layout, engine_version=version, draft_model=True)
    assert found == expected


@pytest.mark.parametrize("name", ["ngram", "eagle", "mtp", "fp8-weights-mtp"])
def test_nothing_speculates_over_pipeline_stages(name):
    layout = Layout(pipeline_parallel=2)
    assert ConflictReason.SPECULATION_CONFLICT in reasons(name, "H100-SXM-80GB", "deepseek", layout, draft_model=True)


@pytest.mark.parametrize(
    ("settings", "max_model_len", "expected"),
    [
        pytest.param(
            EngineSettings(chunked_prefill=False, max_num_batched_tokens=2048),
            4096,
            [ConflictReason.CHUNKED_PREFILL_CONFLICT],
            id="no chunks and a budget below the longest prompt",
        ),
        pytest.param(
            EngineSettings(chunked_prefill=False, max_num_batched_tokens=4096), 4096, [], id="a budget that holds it"
        ),
        pytest.param(
            EngineSettings(max_num_batched_tokens=128, max_num_seqs=256),
            None,
            [ConflictReason.BATCH_LIMITS_CONFLICT],
            id="more sequences than tokens",
        ),
        pytest.param(EngineSettings(), 131073, [ConflictReason.CONTEXT_TOO_LONG], id="longer than the model's own"),
        pytest.param(
            EngineSettings(kv_offload_bytes=1 << 30, prefix_caching=False),
            None,
            [ConflictReason.OFFLOAD_CONFLICT],
            id="offload without prefixes to find it by",
        ),
        pytest.param(
            EngineSettings(quantization=DType.INT4), None, [ConflictReason.UNSUPPORTED_PRECISION], id="int4 on loading"
        ),
        pytest.param(
            EngineSettings(kv_cache_dtype=DType.FP4), None, [ConflictReason.UNSUPPORTED_PRECISION], id="fp4 cache"
        ),
        pytest.param(
            EngineSettings(speculation=Speculation(SpeculationKind.NGRAM, 0)),
            None,
            [ConflictReason.SPECULATION_CONFLICT],
            id="no token drafted",
        ),
    ],
)
def test_what_stands_in_the_way_of_settings_that_a_person_wrote(settings, max_model_len, expected):
    found = settings_conflicts(
        settings,
        architecture=ARCHITECTURES["llama"],
        accelerator=device("H100-SXM-80GB"),
        layout=ONE,
        max_model_len=max_model_len,
    )
    assert [c.reason for c in found] == expected
    assert all(c.detail for c in found)


def test_saying_again_that_a_checkpoint_is_fp8_is_no_conflict():
    found = settings_conflicts(
        EngineSettings(quantization=DType.FP8),
        architecture=ARCHITECTURES["llama-fp8"],
        accelerator=device("H100-SXM-80GB"),
        layout=ONE,
    )
    assert found == ()


def test_conflicts_are_rejected_under_the_catalogue():
    fp8 = applicable(method("fp8-kv"), ARCHITECTURES["llama"], device("A100-SXM-80GB"), ONE)
    assert fp8[0].rejection_reason is RejectionReason.UNSUPPORTED_PRECISION
    assert "8.0" in fp8[0].detail
    mtp = applicable(method("mtp"), ARCHITECTURES["llama"], device("H100-SXM-80GB"), ONE)
    assert mtp[0].rejection_reason is RejectionReason.METHOD_CONFLICT


def test_weights_that_are_only_stored_in_fp8_are_remarked_on():
    assert "Marlin" in remarks(method("fp8-weights"), device("A100-SXM-80GB"))[0]
    assert remarks(method("fp8-weights"), device("H100-SXM-80GB")) == ()
    assert remarks(method("default"), device("A100-SXM-80GB")) == ()
