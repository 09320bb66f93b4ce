"""Which cases an installed vLLM is asked, and what its answers come to."""

from dataclasses import replace

import pytest

from metainf.accelerators import Vendor, get
from metainf.architecture import ModelArchitecture
from metainf.engine_environment import CaseAnswer
from metainf.engine_versions import flag_catalogue
from metainf.flag_catalogue import FlagCatalogue, FlagKind, FlagSpec
from metainf.flag_checks import (
    FlagCase,
    Refusal,
    case_argv,
    catalogue_changes,
    differences,
    flag_cases,
    quick_cases,
    refusals,
    representatives,
    unchecked,
)
from metainf.known_models import known_model
from metainf.layouts import Layout
from metainf.methods import applicable, method, portfolio

LLAMA, DEEPSEEK, MIXTRAL = "meta-llama/Llama-3.1-8B", "deepseek-ai/DeepSeek-V3", "mistralai/Mixtral-8x7B-v0.1"
CPU, AMX_CPU, H100 = "CPU-x86-64", "Xeon-Sapphire-Rapids", "H100-SXM-80GB"
RESOLVED = {
    "asynchronous_scheduling": False,
    "chunked_prefill": True,
    "long_prefill_token_threshold": 0,
    "max_model_len": 131072,
    "max_num_batched_tokens": 2048,
    "max_num_seqs": 128,
    "prefix_caching": True,
    "speculation": None,
    "stream_interval": 1,
}
TAKEN = CaseAnswer(RESOLVED)


def architecture(name) -> ModelArchitecture:
    found = known_model(name)
    assert found is not None
    return found


def devices(*names):
    return [device for name in names if (device := get(name)) is not None]


ARCHITECTURES = {name: architecture(name) for name in (LLAMA, DEEPSEEK, MIXTRAL)}


def case(name="default", layout=None, accelerators=(CPU, AMX_CPU, H100), model=LLAMA):
    return FlagCase(model, method(name), layout or Layout(), accelerators)


def test_one_accelerator_stands_for_each_kind():
    found = representatives()
    assert {each.vendor for each in found} == set(Vendor)
    assert len({each.name for each in found}) == len(found)
    assert {True, False} == {each.link is None for each in found if each.vendor is Vendor.NVIDIA}
    assert all(each.partition is None for each in found)


def test_a_case_is_what_is_applicable_somewhere():
    found = flag_cases({LLAMA: ARCHITECTURES[LLAMA]}, devices(CPU, H100))
    by_name = {(each.method.name, each.layout): each.accelerators for each in found}
    assert by_name["default", Layout()] == (CPU, H100)
    assert by_name["fp8-weights", Layout()] == (H100,)
    assert by_name["eagle", Layout(tensor_parallel=8)] == (H100,)
    assert not {each.method.name for each in found} & {"mtp", "fp8-weights-mtp"}
    for each in found:
        for device in devices(*each.accelerators):
            assert not applicable(each.method, ARCHITECTURES[LLAMA], device, each.layout, draft_model=True)


@pytest.mark.parametrize("models", [ARCHITECTURES, {LLAMA: ARCHITECTURES[LLAMA]}], ids=["several", "one"])
def test_fewer_cases_still_hold_every_method_and_every_layout_of_every_model(models):
    every = flag_cases(models, representatives())
    quick = quick_cases(every, models)
    assert len(quick) < len(every) / 1.5
    for parts in (
        lambda each: (each.model, each.method.name),
        lambda each: (each.model, each.layout),
        lambda each: (each.model, each.method.name, each.layout.pipeline_parallel > 1, each.layout.data_parallel > 1),
    ):
        assert set(map(parts, quick)) == set(map(parts, every))


def test_models_of_a_class_share_what_methods_and_layouts_do_together():
    twice = {LLAMA: ARCHITECTURES[LLAMA], "another": replace(ARCHITECTURES[LLAMA], name="another")}
    quick = quick_cases(flag_cases(twice, representatives()), twice)
    first, second = (sum(each.model == name for each in quick) for name in twice)
    assert second < first


def test_a_case_is_asked_in_the_arguments_of_a_pod():
    argv = case_argv(case("eagle", Layout(tensor_parallel=2)), "/model", "/head", 4096, "0.30.0")
    assert argv == (
        "/model",
        *("--port", "8000", "--shutdown-timeout", "120", "--tensor-parallel-size", "2", "--max-model-len", "4096"),
        *("--speculative-config", '{"method":"eagle3","model":"/head","num_speculative_tokens":3}'),
    )


def test_refusals_are_told_by_reason_the_most_common_first():
    cases = [case("default"), case("ngram"), case("mtp"), case("fp8-kv")]
    common = CaseAnswer(None, "config", "ValueError: no", "vllm/config/vllm.py")
    answers = [TAKEN, common, CaseAnswer(None, "name", "no flag of the parser: --x"), common]
    assert refusals(cases, answers) == (
        Refusal("config", "ValueError: no", "vllm/config/vllm.py", (cases[1], cases[3])),
        Refusal("name", "no flag of the parser: --x", "", (cases[2],)),
    )
    assert refusals(cases[:1], [TAKEN]) == ()


@pytest.mark.parametrize(
    ("asked", "theirs", "found"),
    [
        pytest.param(case(), {}, [], id="the same"),
        pytest.param(
            case(),
            {"max_num_seqs": 256, "chunked_prefill": False},
            [("chunked_prefill", "True", "False"), ("max_num_seqs", "128", "256")],
            id="other defaults",
        ),
        pytest.param(case(accelerators=(H100,)), {"max_num_seqs": 1024}, [], id="what is for a GPU is not compared"),
        pytest.param(case("ngram"), {"speculation": ["ngram", 4]}, [], id="speculation"),
        pytest.param(
            case("ngram"), {"speculation": ["ngram", 5]}, [("speculation", "['ngram', 4]", "['ngram', 5]")], id="drafts"
        ),
    ],
)
@pytest.mark.parametrize("amx_tile", [True, False])
def test_settings_that_come_to_something_else_on_a_cpu_are_told(asked, theirs, found, amx_tile):
    told = differences([asked], [CaseAnswer(RESOLVED | theirs)], ARCHITECTURES, "0.32.0", amx_tile=amx_tile)
    assert sorted((each.field, each.ours, each.theirs) for each in told) == found
    assert all(each.cases == (asked,) for each in told)


CHUNKED = {"max_model_len": 163840}
BY_REFERENCE = {"chunked_prefill": False, "max_num_batched_tokens": 163840, "prefix_caching": False} | CHUNKED
OTHERWISE = ("chunked_prefill", "max_num_batched_tokens", "prefix_caching")


@pytest.mark.parametrize(
    ("accelerators", "amx_tile", "theirs", "found"),
    [
        pytest.param((CPU, AMX_CPU), True, CHUNKED, (), id="as with tiles, of a CPU with them"),
        pytest.param((CPU, AMX_CPU), False, BY_REFERENCE, (), id="as without tiles, of a CPU without"),
        pytest.param((CPU, AMX_CPU), False, CHUNKED, OTHERWISE, id="as with tiles, of a CPU without"),
        pytest.param((CPU, AMX_CPU), True, BY_REFERENCE, OTHERWISE, id="as without tiles, of a CPU with them"),
        pytest.param((AMX_CPU,), False, BY_REFERENCE, (), id="for CPUs with tiles alone, asked without"),
        pytest.param((CPU,), True, CHUNKED, (), id="for CPUs without tiles alone, asked with them"),
    ],
)
def test_latent_attention_is_judged_by_cpus_like_the_one_that_was_asked(accelerators, amx_tile, theirs, found):
    asked, answer = case(model=DEEPSEEK, accelerators=accelerators), CaseAnswer(RESOLVED | theirs)
    told = differences([asked], [answer], ARCHITECTURES, "0.32.0", amx_tile=amx_tile)
    assert tuple(sorted(each.field for each in told)) == found


@pytest.mark.parametrize(
    ("accelerators", "amx_tile", "unjudged"),
    [
        ((AMX_CPU, H100), False, True),
        ((CPU,), True, True),
        ((CPU, AMX_CPU), True, False),
        ((AMX_CPU,), True, False),
        ((H100,), True, False),
    ],
)
def test_cases_for_other_cpus_than_the_one_that_was_asked_are_told_as_unchecked(accelerators, amx_tile, unjudged):
    others = [each for each in unchecked(amx_tile) if "AMX" in each.what]
    assert [each.concerns(case(model=DEEPSEEK, accelerators=accelerators)) for each in others] == [unjudged]


def test_what_is_refused_is_not_compared():
    refused = [CaseAnswer(None, "config", "no")]
    assert differences([case()], refused, ARCHITECTURES, "0.32.0", amx_tile=False) == ()


def test_a_parser_that_is_another_than_the_catalogue_is_told():
    ours = flag_catalogue()
    flags = {name: spec for name, spec in ours.flags.items() if name != "enforce-eager"}
    flags["max-num-seqs"] = replace(flags["max-num-seqs"], kind=FlagKind.STR)
    flags["brand-new"] = FlagSpec("brand-new", FlagKind.STR)
    assert catalogue_changes(ours, FlagCatalogue(ours.origin, flags)) == (
        "--enforce-eager is not there",
        "--brand-new is new",
        "--max-num-seqs is another",
    )
    assert catalogue_changes(ours, ours) == ()


def test_everything_that_a_cpu_does_not_judge_concerns_some_case_and_names_its_source():
    cases = [FlagCase(LLAMA, each, Layout(tensor_parallel=2), (H100, AMX_CPU)) for each in portfolio()]
    plain = case()
    for each in unchecked(amx_tile=False):
        assert any(map(each.concerns, cases))
        assert each.source.startswith("vllm/")
    assert sum(each.concerns(plain) for each in unchecked(amx_tile=False)) == 2
