"""What a vLLM server counts about itself, read from recorded answers of three of its versions."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metainf_operator.engine_metrics import EngineCounts, Histogram, parse_engine_metrics, useful_lines

RECORDED = Path(__file__).parent / "data/engine_metrics"
VERSIONS = ("0.28.0", "0.30.0", "0.32.0")


def recorded(name: str) -> str:
    return (RECORDED / f"{name}.prom").read_text()


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_tells_what_was_sent(version: str) -> None:
    found = parse_engine_metrics(recorded(version))
    assert (found.prompt_tokens, found.output_tokens) == (27445, 2352)
    assert (found.prefix_queried_tokens, found.prefix_hit_tokens) == (27445, 15104)
    assert (found.running, found.waiting) == (0, 0)
    assert found.started_s is not None
    histograms = (found.ttft_s, found.tpot_s, found.e2e_s, found.input_tokens, found.answer_tokens)
    assert [each.count for each in histograms if each] == [106, 105, 105, 105, 105]
    assert found.input_tokens is not None
    assert found.answer_tokens is not None
    assert (found.input_tokens.total, found.answer_tokens.total) == (27350.0, 2351.0)
    assert found.answer_tokens.counts[:2] == (5, 0)  # the answers of one token


@pytest.mark.parametrize("version", VERSIONS)
def test_a_histogram_counts_in_each_bucket_what_lies_in_it_alone(version: str) -> None:
    text, found = recorded(version), parse_engine_metrics(recorded(version)).ttft_s
    assert found is not None
    assert found.bounds[:3] == (0.001, 0.005, 0.01)
    assert math.isfinite(found.bounds[-1])
    assert len(found.counts) == len(found.bounds) + 1
    line = next(each for each in text.splitlines() if "first_token_seconds_bucket" in each and 'le="0.04"' in each)
    assert sum(found.counts[: found.bounds.index(0.04) + 1]) == float(line.split()[-1])


def test_before_any_request_all_counts_are_zero_and_none_is_absent() -> None:
    found = parse_engine_metrics(recorded("0.32.0-before-traffic"))
    assert (found.prompt_tokens, found.prefix_queried_tokens, found.running) == (0, 0, 0)
    assert found.ttft_s is not None
    assert found.ttft_s.count == 0


def test_engines_of_one_server_are_added_up() -> None:
    text = recorded("0.32.0")
    doubled = text + "\n".join(
        line.replace('engine="0"', 'engine="1"') for line in text.splitlines() if "vllm:" in line
    )
    one, two = parse_engine_metrics(text), parse_engine_metrics(doubled)
    assert one.output_tokens is not None
    assert two.output_tokens == 2 * one.output_tokens
    assert one.ttft_s is not None
    assert two.ttft_s == Histogram(one.ttft_s.bounds, tuple(2 * n for n in one.ttft_s.counts), 2 * one.ttft_s.total)
    assert two.started_s == one.started_s


def test_what_a_server_does_not_tell_is_absent() -> None:
    found = parse_engine_metrics('vllm:generation_tokens_total{engine="0"} 7\n')
    assert found == EngineCounts(output_tokens=7)


def test_only_lines_that_are_read_are_useful() -> None:
    text = recorded("0.32.0")
    useful = useful_lines(text)
    assert len(useful.splitlines()) < len(text.splitlines()) / 3
    assert parse_engine_metrics(useful) == parse_engine_metrics(text)


BUCKET = "vllm:time_to_first_token_seconds_bucket"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "no metrics of a vLLM server", id="nothing"),
        pytest.param("go_goroutines 7\n", "no metrics of a vLLM server", id="another server"),
        pytest.param("<html>vllm:num_requests_running</html>", "no metrics of a vLLM server", id="a page"),
        pytest.param("vllm:num_requests_running{ 1\n", "no exposition", id="half a line"),
        pytest.param("vllm:num_requests_running NaN\n", "no count", id="not a number"),
        pytest.param("vllm:num_requests_running -1\n", "no count", id="below zero"),
        pytest.param("vllm:num_requests_running 1e300\n", "no count", id="absurd"),
        pytest.param('vllm:num_requests_running{le="1"} 1\n', "a bound without a bucket", id="a bound elsewhere"),
        pytest.param(f'{BUCKET}{{le="1"}} 3\n', "the last of them bounded", id="no last bucket"),
        pytest.param(f"{BUCKET} 3\n", "without an upper bound", id="no bound"),
        pytest.param(f'{BUCKET}{{le="1"}} 3\n{BUCKET}{{le="+Inf"}} 2\n', "holds less", id="fewer in more"),
    ],
)
def test_what_is_no_count_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_engine_metrics(text)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_whatever_answers_is_read_or_refused(text: str) -> None:
    try:
        parse_engine_metrics(f"vllm:num_requests_running {text}")
    except ValueError:
        return
