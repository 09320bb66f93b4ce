"""Public traces: read line by line, replayed as they are, and refused with the line's number."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.trace_replay import described
from metainf.errors import InvalidWorkloadError
from metainf.simulator import EngineModel, StepTimes, simulate
from metainf.traces import TraceName, load_trace, read_azure, read_mooncake, scaled_to_rate
from metainf.workload import RateLoad, TokenLengths

FOLDER = Path(os.environ.get("METAINF_DATA", Path(__file__).parents[2] / "shared" / "data")) / "traces"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
MOONCAKE = '{"timestamp": 0, "input_length": 1030, "output_length": 5, "hash_ids": [0, 1, 2]}\n'

needs_traces = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no traces at {FOLDER}: set METAINF_DATA")


def written(folder, name, text):
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_azures_times_keep_their_seventh_digit_and_begin_at_zero(tmp_path):
    rows = "2023-11-16 18:17:03.9799600,4808,10\r\n2023-11-16 18:17:04.0319607,3180,8\r\n"
    requests = read_azure(written(tmp_path, "a.csv", AZURE + rows))
    assert requests.arrival_s == pytest.approx([0.0, 0.0520007], abs=2e-7)
    assert requests.input_tokens.tolist() == [4808, 3180]
    assert requests.output_tokens.tolist() == [10, 8]
    assert len(requests.block_offsets) == 0


def test_mooncakes_hash_ids_become_the_blocks_of_each_request(tmp_path):
    second = '{"timestamp": 2500, "input_length": 600, "output_length": 1, "hash_ids": [0, 7]}\n'
    requests = read_mooncake(written(tmp_path, "m.jsonl", MOONCAKE + second))
    assert requests.arrival_s.tolist() == [0.0, 2.5]
    assert requests.block_hashes.tolist() == [0, 1, 2, 0, 7]
    assert requests.block_offsets.tolist() == [0, 3, 5]
    assert requests.hash_block_tokens == 512


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param("TIME,A,B\r\n", "line 1: the header must be", id="another header"),
        pytest.param("", "line 1: the header must be", id="an empty file"),
        pytest.param(AZURE, "holds no requests", id="a header alone"),
        pytest.param(AZURE + "2023-11-16 18:17:03,5,6\nyesterday,5,6\n", "line 3: TIMESTAMP 'yesterday'", id="no time"),
        pytest.param(AZURE + "2023-11-16 18:17:03,5\n", "line 2: 2 fields instead of 3", id="a field is missing"),
        pytest.param(AZURE + "2023-11-16 18:17:03,5.5,6\n", "line 2: ContextTokens '5.5'", id="half a token"),
        pytest.param(AZURE + "2023-11-16 18:17:03,5,0\n", "line 2: GeneratedTokens '0'", id="no answer"),
        pytest.param(
            AZURE + "2023-11-16 18:17:03,5,6\n2023-11-16 18:17:01,5,6\n",
            "line 3: the request came 2 s before",
            id="back",
        ),
    ],
)
def test_a_malformed_line_of_azures_is_named(tmp_path, rows, message):
    with pytest.raises(InvalidWorkloadError, match=message):
        read_azure(written(tmp_path, "a.csv", rows))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("{", "line 2: not valid JSON", id="no JSON"),
        pytest.param("[1]", "line 2: not a JSON object", id="a list"),
        pytest.param("[" * 100_000, "line 2: not valid JSON", id="too deep"),
        pytest.param('{"timestamp": 1, "input_length": "9"}', "line 2: input_length must be", id="a text"),
        pytest.param('{"timestamp": true, "input_length": 9}', "line 2: timestamp must be", id="a truth value"),
        pytest.param('{"timestamp":1,"input_length":9,"output_length":0}', "line 2: output_length", id="no answer"),
        pytest.param(
            '{"timestamp":1,"input_length":9,"output_length":1,"hash_ids":[-1]}', "line 2: hash_ids", id="negative id"
        ),
        pytest.param(
            '{"timestamp":1,"input_length":9,"output_length":1,"hash_ids":[1,2]}',
            "line 2: 2 hash_ids for 9 tokens, which are 1 blocks",
            id="more blocks than tokens",
        ),
    ],
)
def test_a_malformed_line_of_mooncakes_is_named(tmp_path, line, message):
    with pytest.raises(InvalidWorkloadError, match=message):
        read_mooncake(written(tmp_path, "m.jsonl", MOONCAKE + line + "\n"))


def test_a_missing_trace_says_which_file_is_wanted(tmp_path):
    with pytest.raises(InvalidWorkloadError, match=r"AzureLLMInferenceTrace_conv\.csv"):
        load_trace(TraceName.AZURE_CONVERSATION, tmp_path)


def test_time_is_stretched_to_a_rate_and_nothing_else_changes(tmp_path):
    rows = "".join(f"2023-11-16 18:17:{second:02d},{100 + second},10\n" for second in (0, 1, 5, 20))
    requests = read_azure(written(tmp_path, "a.csv", AZURE + rows))
    faster = scaled_to_rate(requests, 3.0)
    assert faster.arrival_s.tolist() == pytest.approx([0.0, 0.05, 0.25, 1.0])
    assert faster.input_tokens is requests.input_tokens


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(tmp_path, rate):
    rows = "2023-11-16 18:17:00,5,6\n2023-11-16 18:17:01,5,6\n"
    with pytest.raises(InvalidWorkloadError, match="rate must be above 0"):
        scaled_to_rate(read_azure(written(tmp_path, "a.csv", AZURE + rows)), rate)


def test_requests_that_come_at_once_have_no_rate(tmp_path):
    with pytest.raises(InvalidWorkloadError, match="come at once"):
        scaled_to_rate(read_mooncake(written(tmp_path, "m.jsonl", MOONCAKE + MOONCAKE)), 1.0)


def test_a_trace_is_described_by_its_own_numbers(tmp_path):
    rows = "".join(f"2023-11-16 18:17:0{second},{tokens},10\r\n" for second, tokens in ((0, 100), (1, 200), (4, 300)))
    traffic = described(read_azure(written(tmp_path, "a.csv", AZURE + rows)), hit_ratio=0.0)
    assert traffic.load == RateLoad(2 / 4)
    assert (traffic.input_tokens.mean_tokens, traffic.input_tokens.p95_tokens) == (200.0, pytest.approx(290.0))
    assert traffic.output_tokens == TokenLengths(10.0, 10.0)
    assert traffic.burstiness == pytest.approx(0.5)  # 1 s and 3 s
    assert traffic.shared_prefix is None


@needs_traces
@pytest.mark.parametrize(
    ("name", "count", "mean_input", "mean_output"),
    [
        pytest.param(TraceName.AZURE_CONVERSATION, 19366, 1154.7, 211.1, id="Azure conversation"),
        pytest.param(TraceName.AZURE_CODE, 8819, 2047.8, 27.9, id="Azure code"),
        pytest.param(TraceName.MOONCAKE_CONVERSATION, 12031, 12035.1, 342.6, id="Mooncake conversation"),
        pytest.param(TraceName.MOONCAKE_SYNTHETIC, 3993, 15325.5, 149.1, id="Mooncake synthetic"),
    ],
)
def test_a_whole_trace_is_read(name, count, mean_input, mean_output):
    requests = load_trace(name, FOLDER)
    assert len(requests.arrival_s) == count
    assert requests.input_tokens.mean() == pytest.approx(mean_input, abs=0.1)
    assert requests.output_tokens.mean() == pytest.approx(mean_output, abs=0.1)
    assert np.all(np.diff(requests.arrival_s) >= 0)


@needs_traces
@pytest.mark.parametrize(
    ("name", "reused"),
    [(TraceName.MOONCAKE_CONVERSATION, 0.374), (TraceName.MOONCAKE_SYNTHETIC, 0.651)],
)
def test_mooncakes_blocks_are_reused_as_often_as_counted(name, reused):
    requests = load_trace(name, FOLDER)
    _, first = np.unique(requests.block_hashes, return_index=True)
    again = np.ones(len(requests.block_hashes), dtype=bool)
    again[first] = False
    starts = requests.block_offsets[:-1]
    # Tokens of leading blocks that were seen before; a block stands for all before it, so those seen lead.
    seen = np.add.reduceat(again.astype(int), starts)
    tokens = np.minimum(seen * requests.hash_block_tokens, requests.input_tokens)
    assert tokens.sum() / requests.input_tokens.sum() == pytest.approx(reused, abs=0.005)


BLOCK = 16
ENGINE = EngineModel(
    max_num_seqs=256,
    max_num_batched_tokens=8192,
    kv_blocks=10_000_000,
    block_tokens=BLOCK,
    max_model_len=1 << 18,
    asynchronous=False,
    same_step_hits=True,
)
STEPS = StepTimes(  # 10 ms and 1 us per token: several times what any of the traces asks for
    tokens=np.array([0.0, 1e6]),
    token_s=np.array([0.0, 1.0]),
    decode_sequences=np.array([0.0, 1.0]),
    decode_context_tokens=np.array([0.0, 1.0]),
    decode_s=np.zeros((2, 2)),
    chunk_tokens=np.array([0.0, 1.0]),
    chunk_context_tokens=np.array([0.0, 1.0]),
    chunk_s=np.zeros((2, 2)),
    fixed_s=0.01,
)


def first_of(requests, count):
    """The first requests of a trace, with their hash ids."""
    offsets = requests.block_offsets[: count + 1]
    return replace(
        requests,
        arrival_s=requests.arrival_s[:count],
        input_tokens=requests.input_tokens[:count],
        output_tokens=requests.output_tokens[:count],
        block_hashes=requests.block_hashes[: offsets[-1]],
        block_offsets=offsets,
    )


def hits_of_ids(requests):
    """Prompt tokens that a cache without end has when each request comes, read off the hash ids alone.

    An id of 512 tokens is 32 of the engine's blocks. Only full blocks count, and the last token of a prompt is computed
    in any case.
    """
    seen, hits = set(), []
    per_id = requests.hash_block_tokens // BLOCK
    for place, tokens in enumerate(requests.input_tokens.tolist()):
        ids = requests.block_hashes[requests.block_offsets[place] : requests.block_offsets[place + 1]].tolist()
        blocks = [(ids[block // per_id], block % per_id) for block in range(min(len(ids) * per_id, tokens // BLOCK))]
        leading = next((count for count, block in enumerate(blocks) if block not in seen), len(blocks))
        hits.append(BLOCK * min(leading, (tokens - 1) // BLOCK))
        seen.update(blocks)
    return np.array(hits)


@needs_traces
@pytest.mark.parametrize("name", [TraceName.MOONCAKE_CONVERSATION, TraceName.MOONCAKE_SYNTHETIC])
def test_a_replay_hits_what_the_hash_ids_of_mooncake_say(name):
    requests = first_of(load_trace(name, FOLDER), 1000)
    expected = hits_of_ids(requests)
    result = simulate(ENGINE, STEPS, requests)
    assert result.preemptions.sum() == 0
    assert expected.sum() > 0.1 * requests.input_tokens.sum()
    np.testing.assert_array_equal(result.cached_tokens, expected)
    computed = requests.input_tokens + requests.output_tokens - 1 - expected
    assert result.computed_tokens == computed.sum()


@needs_traces
def test_a_replay_hits_less_where_the_cache_is_small_or_a_step_hides_what_it_computes():
    requests = first_of(load_trace(TraceName.MOONCAKE_CONVERSATION, FOLDER), 1000)
    expected = hits_of_ids(requests)
    small = simulate(replace(ENGINE, kv_blocks=20_000), STEPS, requests).cached_tokens
    later = simulate(replace(ENGINE, same_step_hits=False), STEPS, requests).cached_tokens
    assert (small <= expected).all() and small.sum() < expected.sum()
    assert (later <= expected).all()
    assert simulate(replace(ENGINE, prefix_caching=False), STEPS, requests).cached_tokens.sum() == 0


@needs_traces
@pytest.mark.parametrize("name", [TraceName.AZURE_CONVERSATION, TraceName.AZURE_CODE])
def test_azures_traces_are_replayed_as_they_are(name):
    requests = load_trace(name, FOLDER)
    result = simulate(ENGINE, STEPS, requests)
    np.testing.assert_array_equal(result.sent_s, requests.arrival_s)
    assert np.isfinite(result.last_token_s).all()
    assert (np.diff(result.first_token_s) >= 0.0).all(), "who comes first has its first token first"
    assert (result.ttft_s >= STEPS.fixed_s).all()
    assert result.makespan_s > requests.arrival_s[-1]
    assert (result.preemptions.sum(), result.cached_tokens.sum()) == (0, 0)
    assert result.computed_tokens == (requests.input_tokens + requests.output_tokens - 1).sum()
