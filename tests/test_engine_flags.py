"""Settings and layout as arguments and back, and the check of a user's own arguments."""

import json

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from metainf.dtypes import DType
from metainf.engine_flags import (
    RESERVED_FLAGS,
    DraftModel,
    Entrypoint,
    ExtraArgReason,
    ParsedFlags,
    check_extra_args,
    layout_flags,
    parse_flags,
    serve_argv,
    settings_flags,
)
from metainf.engine_versions import flag_catalogue, known_engine_versions
from metainf.errors import InvalidWorkloadError
from metainf.flag_catalogue import FlagKind
from metainf.layouts import Layout
from metainf.methods import portfolio
from metainf.settings import EngineSettings, PerformanceMode, Speculation, SpeculationKind

NASTY = ["", " ", " a", "-tp", "--model", "a\nb", "a\x00b", "a\x1b[2J", "a\u2028b", "a\u202eb", "\ud800", "$(HF_TOKEN)"]
NASTY += ["x" * 1025, "a\tb", "\x7f"]


def argv(**kwargs):
    given_ = {"model": "org/model", "layout": Layout(), "settings": EngineSettings(), "port": 8000}
    return serve_argv(**(given_ | kwargs))


def test_arguments_stand_in_one_order_and_each_value_is_an_item_of_its_own():
    result = argv(
        revision="0123abc",
        served_name="chat",
        layout=Layout(tensor_parallel=4, pipeline_parallel=2),
        settings=EngineSettings(max_model_len=8192, gpu_memory_utilization=0.9, kv_cache_dtype=DType.FP8),
        shutdown_timeout_s=60,
        extra=("--enforce-eager",),
    )
    assert result == (
        "org/model",
        "--revision",
        "0123abc",
        "--served-model-name",
        "chat",
        "--port",
        "8000",
        "--shutdown-timeout",
        "60",
        "--tensor-parallel-size",
        "4",
        "--pipeline-parallel-size",
        "2",
        "--max-model-len",
        "8192",
        "--gpu-memory-utilization",
        "0.9",
        "--kv-cache-dtype",
        "fp8",
        "--enforce-eager",
    )


def test_experts_are_spread_by_flag():
    assert argv(layout=Layout(data_parallel=8, expert_parallel=True))[3:] == (
        "--data-parallel-size",
        "8",
        "--enable-expert-parallel",
    )


def test_the_older_entrypoint_gets_the_model_as_a_flag():
    assert argv(entrypoint=Entrypoint.API_SERVER)[:2] == ("--model", "org/model")


def test_switches_are_spelt_on_and_off():
    assert argv(settings=EngineSettings(prefix_caching=True, chunked_prefill=False))[3:] == (
        "--enable-prefix-caching",
        "--no-enable-chunked-prefill",
    )


def test_speculation_is_compact_json_with_sorted_keys():
    settings = EngineSettings(speculation=Speculation(SpeculationKind.DRAFT_MODEL, 3))
    value = argv(settings=settings, draft=DraftModel('o"rg/dräft', "c0ffee"))[-1]
    assert " " not in value and value.isascii()
    decoded = json.loads(value)
    assert list(decoded) == sorted(decoded)
    assert decoded == {
        "method": "draft_model",
        "model": 'o"rg/dräft',
        "num_speculative_tokens": 3,
        "revision": "c0ffee",
    }


def test_speculation_with_a_draft_model_needs_one():
    with pytest.raises(InvalidWorkloadError, match="draftModel"):
        argv(settings=EngineSettings(speculation=Speculation(SpeculationKind.EAGLE, 3)))


@pytest.mark.parametrize("text", NASTY, ids=ascii)
@pytest.mark.parametrize("where", ["model", "revision", "served_name"])
def test_names_that_could_be_anything_but_names_are_refused(text, where):
    with pytest.raises(InvalidWorkloadError):
        argv(**{where: text})


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_draft_models_are_refused_alike(text):
    settings = EngineSettings(speculation=Speculation(SpeculationKind.EAGLE, 3))
    with pytest.raises(InvalidWorkloadError):
        argv(settings=settings, draft=DraftModel(text))


@pytest.mark.parametrize("text", ["/models/a b", "org/mödel", "a;rm -rf /", "`id`", "$HOME", "a=b", '"', "a'b"])
def test_names_are_never_read_by_a_shell_and_so_stand_as_they_are(text):
    assert argv(model=text)[0] == text


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(InvalidWorkloadError, match="port"):
        argv(port=port)


@pytest.mark.parametrize(
    "settings",
    [EngineSettings(quantization=DType.INT8), EngineSettings(kv_cache_dtype=DType.FP32)],
    ids=["weights", "cache"],
)
def test_formats_that_have_no_flag_are_refused(settings):
    with pytest.raises(InvalidWorkloadError):
        argv(settings=settings)


@pytest.mark.parametrize("version", known_engine_versions())
def test_every_flag_that_a_method_or_a_layout_gives_is_one_of_the_version(version):
    catalogue = flag_catalogue(version)
    draft, layout = DraftModel("org/head"), Layout(2, 2, 2, expert_parallel=True)
    for method in portfolio(version):
        for name, value in (*settings_flags(method.settings, draft), *layout_flags(layout)):
            spec = catalogue.flags[name]
            assert isinstance(value, bool) is (spec.kind is FlagKind.SWITCH)
            if spec.choices:
                assert value in spec.choices


@pytest.mark.parametrize("version", known_engine_versions())
def test_every_flag_that_any_server_gets_is_one_of_the_version(version):
    every = serve_argv(
        model="m",
        layout=Layout(),
        settings=EngineSettings(max_model_len=1, gpu_memory_utilization=0.9, kv_cache_memory_bytes=1),
        port=80,
        revision="r",
        served_name="n",
        shutdown_timeout_s=1,
        version=version,
    )
    assert check_extra_args(every[1:], decided=(), version=version) == ()


counts = st.one_of(st.none(), st.integers(1, 1 << 20))
all_settings = st.builds(
    EngineSettings,
    prefix_caching=st.one_of(st.none(), st.booleans()),
    chunked_prefill=st.one_of(st.none(), st.booleans()),
    max_num_batched_tokens=counts,
    max_num_seqs=counts,
    long_prefill_token_threshold=st.one_of(st.none(), st.integers(0, 1 << 20)),
    speculation=st.one_of(
        st.none(), st.builds(Speculation, kind=st.sampled_from(SpeculationKind), tokens=st.integers(1, 16))
    ),
    quantization=st.sampled_from([None, DType.FP8]),
    kv_cache_dtype=st.sampled_from([None, DType.BF16, DType.FP16, DType.FP8, DType.INT8, DType.INT4, DType.FP4]),
    kv_offload_bytes=st.one_of(st.none(), st.integers(1, 1 << 40)),
    performance_mode=st.one_of(st.none(), st.sampled_from(PerformanceMode)),
    max_model_len=counts,
    gpu_memory_utilization=st.one_of(st.none(), st.floats(0.01, 1.0)),
    stream_interval=st.one_of(st.none(), st.integers(1, 100)),
    kv_cache_memory_bytes=counts,
)
all_layouts = st.builds(
    Layout,
    tensor_parallel=st.integers(1, 16),
    pipeline_parallel=st.integers(1, 8),
    data_parallel=st.integers(1, 16),
    expert_parallel=st.booleans(),
)


def as_flags(items):
    """The arguments as a mapping of flags, as a person would give them."""
    flags, items = {}, list(items)
    while items:
        name = items.pop(0)
        takes_value = bool(items) and not items[0].startswith("--")
        flags[name.removeprefix("--")] = items.pop(0) if takes_value else True
    return flags


@given(all_settings, all_layouts)
def test_arguments_read_back_as_what_they_were_made_from(settings, layout):
    items = serve_argv(model="m", layout=layout, settings=settings, port=80, draft=DraftModel("d"))[1:]
    parsed = parse_flags(as_flags(items))
    assert parsed == ParsedFlags(settings, layout, ("port",))


@given(all_settings, all_layouts)
def test_arguments_are_those_that_the_version_takes(settings, layout):
    items = serve_argv(model="m", layout=layout, settings=settings, port=80, draft=DraftModel("d"))[1:]
    assert check_extra_args(items, decided=()) == ()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        pytest.param({}, ParsedFlags(), id="nothing"),
        pytest.param(
            {"tensor-parallel-size": 2, "kv-cache-dtype": "fp8", "max-num-seqs": 64},
            ParsedFlags(EngineSettings(kv_cache_dtype=DType.FP8, max_num_seqs=64), Layout(tensor_parallel=2)),
            id="the usual ones",
        ),
        pytest.param(
            {"tensor_parallel_size": "2", "--max_num_seqs": 64.0},
            ParsedFlags(EngineSettings(max_num_seqs=64), Layout(tensor_parallel=2)),
            id="underscores, dashes, numbers as text",
        ),
        pytest.param(
            {"-tp": 2, "-q": "fp8"},
            ParsedFlags(EngineSettings(quantization=DType.FP8), Layout(tensor_parallel=2)),
            id="short spellings",
        ),
        pytest.param(
            {"enable-prefix-caching": False}, ParsedFlags(EngineSettings(prefix_caching=False)), id="a switch off"
        ),
        pytest.param(
            {"no-enable-prefix-caching": True}, ParsedFlags(EngineSettings(prefix_caching=False)), id="a switch negated"
        ),
        pytest.param(
            {"max-model-len": "8K", "max-num-batched-tokens": "25.6k"},
            ParsedFlags(EngineSettings(max_model_len=8192, max_num_batched_tokens=25600)),
            id="sizes as people write them",
        ),
        pytest.param({"max-model-len": "auto"}, ParsedFlags(), id="as long as it can be"),
        pytest.param({"max-num-seqs": None}, ParsedFlags(), id="None leaves the default"),
        pytest.param(
            {"device-memory-utilization": 0.8},
            ParsedFlags(EngineSettings(gpu_memory_utilization=0.8)),
            id="another name of the same flag",
        ),
        pytest.param(
            {"speculative-config": {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4}},
            ParsedFlags(EngineSettings(speculation=Speculation(SpeculationKind.NGRAM, 5))),
            id="speculation as an object",
        ),
        pytest.param(
            {"speculative_config": '{"method": "deepseek_mtp", "num_speculative_tokens": 1}'},
            ParsedFlags(EngineSettings(speculation=Speculation(SpeculationKind.MTP, 1))),
            id="speculation as JSON, an old name",
        ),
        pytest.param(
            {"spec-method": "eagle3", "spec-model": "org/head", "spec-tokens": 2},
            ParsedFlags(EngineSettings(speculation=Speculation(SpeculationKind.EAGLE, 2))),
            id="speculation by short flags",
        ),
        pytest.param(
            {"speculative-config": {"model": "org/EAGLE-x", "num_speculative_tokens": 2}},
            ParsedFlags(EngineSettings(speculation=Speculation(SpeculationKind.EAGLE, 2))),
            id="speculation told by the draft's name",
        ),
        pytest.param(
            {"enforce-eager": True, "block-size": 32, "dtype": "auto"},
            ParsedFlags(ignored=("block-size", "dtype", "enforce-eager")),
            id="flags that change no prediction are named",
        ),
        pytest.param({"quantization": "awq"}, ParsedFlags(ignored=("quantization",)), id="what the checkpoint is"),
        pytest.param({"kv-cache-dtype": "auto"}, ParsedFlags(), id="the model's own cache"),
    ],
)
def test_flags_are_read_as_people_write_them(flags, expected):
    assert parse_flags(flags) == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param({"tensor-parallel": 2}, r"did you mean --tensor-parallel-size\?", id="an abbreviation"),
        pytest.param({"swap-space": 4}, "has no flag --swap-space", id="a flag that is gone"),
        pytest.param({"max-num-seq": 4}, r"did you mean --max-num-seqs\?", id="a typing error"),
        pytest.param({"": 1}, "has no flag --", id="no name"),
        pytest.param({"--": 1}, "has no flag --", id="dashes alone"),
        pytest.param({3: 1}, "is not the name of a flag", id="a number as a name"),
        pytest.param({"-tp": 1, "tensor_parallel_size": 2}, "given twice", id="twice"),
        pytest.param({"max-num-seqs": 0}, "max-num-seqs.*from 1", id="none at all"),
        pytest.param({"max-num-seqs": -4}, "max-num-seqs", id="negative"),
        pytest.param({"max-num-seqs": 1.5}, "max-num-seqs", id="a fraction"),
        pytest.param({"max-num-seqs": True}, "max-num-seqs", id="a bool"),
        pytest.param({"max-num-seqs": "many"}, "max-num-seqs", id="a word"),
        pytest.param({"max-num-seqs": 10**30}, "max-num-seqs", id="beyond all"),
        pytest.param({"max-num-seqs": [1]}, "max-num-seqs", id="a list"),
        pytest.param({"max-num-seqs": float("nan")}, "max-num-seqs", id="no number"),
        pytest.param({"max-model-len": "1.5K"}, "max-model-len", id="half a binary size"),
        pytest.param({"gpu-memory-utilization": 1.5}, "at most 1", id="more than all memory"),
        pytest.param({"gpu-memory-utilization": float("nan")}, "at most 1", id="memory, no number"),
        pytest.param({"kv-offloading-size": -1}, "kv-offloading-size", id="a negative size"),
        pytest.param({"kv-offloading-size": float("inf")}, "kv-offloading-size", id="an endless size"),
        pytest.param({"kv-offloading-size": 10**400}, "kv-offloading-size", id="a size beyond floats"),
        pytest.param({"enable-prefix-caching": "maybe"}, "true or false", id="neither"),
        pytest.param({"enable-prefix-caching": 1}, "true or false", id="a number for a switch"),
        pytest.param({"kv-cache-dtype": "turboquant_4bit_nc"}, "modelled", id="a cache that is not modelled"),
        pytest.param({"quantization": "mxfp8"}, "modelled", id="a quantisation that is not modelled"),
        pytest.param({"quantization": 8}, "quantization", id="a quantisation by number"),
        pytest.param({"performance-mode": "fast"}, "balanced", id="no such mode"),
        pytest.param({"scheduling-policy": "lifo"}, "fcfs", id="a choice of an unmodelled flag"),
        pytest.param({"speculative-config": "{"}, "JSON", id="broken JSON"),
        pytest.param({"speculative-config": "[" * 100000}, "JSON", id="deep JSON"),
        pytest.param({"speculative-config": [1]}, "object", id="a list for an object"),
        pytest.param({"speculative-config": {"method": "ngram"}}, "num_speculative_tokens", id="no count"),
        pytest.param(
            {"speculative-config": {"method": "medusa", "num_speculative_tokens": 2}}, "modelled", id="Medusa"
        ),
        pytest.param({"spec-tokens": 2}, "modelled", id="tokens of nothing"),
        pytest.param({"tensor-parallel-size": 1 << 20}, "tensor-parallel-size", id="a million ranks"),
    ],
)
def test_flags_that_cannot_be_are_refused_with_a_hint(flags, message):
    with pytest.raises(InvalidWorkloadError, match=message):
        parse_flags(flags)


def test_flags_of_a_version_that_is_not_known_are_not_read():
    with pytest.raises(InvalidWorkloadError, match=r"0\.1\.0"):
        parse_flags({}, "0.1.0")


@hypothesis_settings(deadline=None)
@given(st.dictionaries(st.text(max_size=20), st.one_of(st.none(), st.integers(), st.text(max_size=9), st.booleans())))
def test_whatever_is_given_is_read_or_refused(flags):
    try:
        parsed = parse_flags(flags)
    except InvalidWorkloadError:
        return
    assert len(parsed.ignored) <= len(flags)


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param([], id="none"),
        pytest.param(["--enforce-eager"], id="a switch"),
        pytest.param(["--chat-template", "/t.jinja", "--trust-remote-code"], id="a value and a switch"),
        pytest.param(["--tool-call-parser=hermes", "--enable_auto_tool_choice"], id="equals and underscores"),
        pytest.param(["--max-num-queued-tokens", "64k", "--no-enable-log-requests"], id="a size and a negation"),
        pytest.param(["--seed", "-1"], id="a negative number is a value"),
        pytest.param(["--lora-modules", "a=/x", "b=/y", "--enable-lora"], id="a list"),
        pytest.param(["--hf-overrides", '{"a": 1}'], id="JSON"),
        pytest.param(["-O3"], id="the optimization level"),
        pytest.param(["--compilation-config.mode=3", "-cc.level", "2"], id="dotted fields"),
        pytest.param(["--reasoning-parser", "qwen3"], id="a parser"),
    ],
)
def test_arguments_that_undo_nothing_are_taken(extra):
    assert check_extra_args(extra) == ()


@pytest.mark.parametrize(
    ("extra", "reason", "flag"),
    [
        pytest.param(["--tensor-parallel-size", "8"], ExtraArgReason.DECIDED, "tensor-parallel-size", id="in full"),
        pytest.param(["--tensor_parallel_size=8"], ExtraArgReason.DECIDED, "tensor-parallel-size", id="underscores"),
        pytest.param(["-tp", "8"], ExtraArgReason.DECIDED, "tensor-parallel-size", id="short"),
        pytest.param(["-tp=8"], ExtraArgReason.DECIDED, "tensor-parallel-size", id="short with equals"),
        pytest.param(["--tensor-par", "8"], ExtraArgReason.DECIDED, "tensor-parallel-size", id="abbreviated"),
        pytest.param(["-qfp8"], ExtraArgReason.DECIDED, "quantization", id="glued to its value"),
        pytest.param(["--no-enable-prefix-caching"], ExtraArgReason.DECIDED, "enable-prefix-caching", id="negated"),
        pytest.param(
            ["--no-enable-prefix"], ExtraArgReason.DECIDED, "enable-prefix-caching", id="negated, abbreviated"
        ),
        pytest.param(
            ["--speculative-config.method", "ngram"], ExtraArgReason.DECIDED, "speculative-config", id="dotted"
        ),
        pytest.param(["-sc.method=ngram"], ExtraArgReason.DECIDED, "speculative-config", id="short and dotted"),
        pytest.param(["--spec-tokens", "3"], ExtraArgReason.DECIDED, "spec-tokens", id="a field by itself"),
        pytest.param(
            ["--device-memory-utilization", "1"], ExtraArgReason.DECIDED, "gpu-memory-utilization", id="alias"
        ),
        pytest.param(
            ["--num-gpu-blocks-override=9"], ExtraArgReason.DECIDED, "num-gpu-blocks-override", id="the cache's blocks"
        ),
        pytest.param(
            ["--kv-cache-memory-bytes", "3G"], ExtraArgReason.DECIDED, "kv-cache-memory-bytes", id="the cache's bytes"
        ),
        pytest.param(["--model", "x"], ExtraArgReason.DECIDED, "model", id="the model"),
        pytest.param(["--port=1"], ExtraArgReason.DECIDED, "port", id="the port"),
        pytest.param(["--served-model-name", "x", "y"], ExtraArgReason.DECIDED, "served-model-name", id="the name"),
        pytest.param(["--api-key", "k"], ExtraArgReason.DECIDED, "api-key", id="a key in the open"),
        pytest.param(["--config", "f.yaml"], ExtraArgReason.DECIDED, "config", id="a file of flags"),
        pytest.param(["--kv-transfer-config", "{}"], ExtraArgReason.DECIDED, "kv-transfer-config", id="a connector"),
        pytest.param(["-h"], ExtraArgReason.DECIDED, "help", id="help instead of a server"),
        pytest.param(["--max-num-s", "8"], ExtraArgReason.DECIDED, "max-num-scheduled-tokens", id="ambiguous"),
        pytest.param(["--swap-space", "4"], ExtraArgReason.UNKNOWN, None, id="gone"),
        pytest.param(["--enforce-egaer"], ExtraArgReason.UNKNOWN, None, id="mistyped"),
        pytest.param(["-zz"], ExtraArgReason.UNKNOWN, None, id="short and unknown"),
        pytest.param(["--enforce-eag"], ExtraArgReason.ABBREVIATED, "enforce-eager", id="an abbreviation of another"),
        pytest.param(["org/other"], ExtraArgReason.POSITIONAL, None, id="another model"),
        pytest.param(["--enforce-eager", "x"], ExtraArgReason.POSITIONAL, None, id="a value that nothing takes"),
        pytest.param(["--", "x"], ExtraArgReason.POSITIONAL, None, id="the end of flags"),
        pytest.param(["--seed"], ExtraArgReason.MISSING_VALUE, "seed", id="no value at the end"),
        pytest.param(["--seed", "--enforce-eager"], ExtraArgReason.MISSING_VALUE, "seed", id="no value before a flag"),
        pytest.param(["--seed", "x"], ExtraArgReason.INVALID_VALUE, "seed", id="a word for a number"),
        pytest.param(["--dtype", "fp12"], ExtraArgReason.INVALID_VALUE, "dtype", id="not one of the choices"),
        pytest.param(["--enforce-eager=1"], ExtraArgReason.INVALID_VALUE, "enforce-eager", id="a value for a switch"),
        pytest.param(["--dtype=fp12"], ExtraArgReason.INVALID_VALUE, "dtype", id="the same with equals"),
        pytest.param(["--chat-template", "a\nb"], ExtraArgReason.UNPRINTABLE, None, id="a line break"),
    ],
)
def test_arguments_that_undo_or_break_something_are_refused(extra, reason, flag):
    problems = check_extra_args(extra)
    assert [(p.reason, p.flag) for p in problems] == [(reason, flag)]
    assert problems[0].detail


@pytest.mark.parametrize(
    ("extra", "version", "detail"),
    [
        pytest.param(
            ["--enforce-egaer"], "0.28.0", "vLLM 0.28.0 has no flag --enforce-egaer; did you mean", id="a slip"
        ),
        pytest.param(["--watermark-config", "{}"], "0.28.0", "0.30.0 and 0.32.0 have it", id="not yet there"),
        pytest.param(["--enable-bf16x3-router-gemm"], "0.32.0", "0.28.0 has it", id="there no more"),
        pytest.param(
            ["--log-level=INFO"], "0.31.0", "those of 0.30.0 are taken for them); 0.32.0 has it", id="between"
        ),
        pytest.param(["--swap-space", "1"], "0.40.0", "those of 0.32.0 are taken for them)", id="beyond"),
    ],
)
def test_a_flag_that_the_version_lacks_is_told_with_the_nearest_and_with_who_has_it(extra, version, detail):
    (problem,) = check_extra_args(extra, version=version)
    assert problem.reason is ExtraArgReason.UNKNOWN
    assert detail in problem.detail


def test_choices_are_read_as_the_version_reads_them():
    assert check_extra_args(["--moe-backend", "Deep-Gemm"]) == ()
    assert check_extra_args(["--moe-backend", "deep"])[0].reason is ExtraArgReason.INVALID_VALUE
    assert check_extra_args(["--kv-cache-metrics-sample=0.5", "--mamba-cache-mode", "align"]) == ()
    assert check_extra_args(["--mamba-cache-mode", "all"], version="0.30.0") == ()
    assert check_extra_args(["--mamba-cache-mode", "all"])[0].reason is ExtraArgReason.INVALID_VALUE


def test_every_problem_is_told_in_the_order_of_the_arguments():
    problems = check_extra_args(["-tp", "2", "--enforce-eager", "--swap-space", "4", "--seed"])
    assert [p.reason for p in problems] == [
        ExtraArgReason.DECIDED,
        ExtraArgReason.UNKNOWN,
        ExtraArgReason.MISSING_VALUE,
    ]


def test_a_refusal_says_what_to_do_instead():
    assert "apiKeySecretRef" in check_extra_args(["--api-key", "k"])[0].detail
    assert "did you mean --enforce-eager?" in check_extra_args(["--enforce-eagre"])[0].detail


def test_only_what_was_decided_is_refused_where_that_is_asked():
    assert check_extra_args(["--max-num-seqs", "4"], decided=("port",)) == ()
    assert check_extra_args(["--port", "4"], decided=("port",))[0].flag == "port"


def test_all_reserved_flags_are_flags_of_the_version():
    assert set(flag_catalogue().flags) >= RESERVED_FLAGS


def test_whatever_we_write_ourselves_is_reserved():
    written = {"model", "revision", "served-model-name", "port", "shutdown-timeout"}
    every = EngineSettings(True, True, 1, 1, 1, Speculation(SpeculationKind.NGRAM, 1), DType.FP8, DType.FP8, 1)
    written |= {name for name, _ in settings_flags(every)}
    written |= {"performance-mode", "max-model-len", "gpu-memory-utilization", "stream-interval"}
    written |= {"kv-cache-memory-bytes"}
    written |= {"tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size", "enable-expert-parallel"}
    assert written <= RESERVED_FLAGS


@hypothesis_settings(deadline=None)
@given(st.lists(st.one_of(st.text(max_size=12), st.sampled_from(sorted(flag_catalogue().spellings))), max_size=6))
def test_any_arguments_are_checked_without_a_fault(extra):
    problems = check_extra_args(extra)
    assert len(problems) <= 2 * len(extra)
