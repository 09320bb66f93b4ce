"""What repeats allow to be claimed, on made-up blocks whose truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metainf.bench.comparison import Comparison, MethodKind, kind_of
from metainf.bench.design import BenchTask
from metainf.bench.noise import Mean, noise_of, together

METHODS = ("default", "no-prefix-caching", "few-sequences", "small-token-budget", "ngram", "static")
KINDS = [kind_of(name) for name in METHODS]
MODELS = ["a", "a", "b", "b"]


def blocks(deviation: float, seed: int, tasks: int = 4, repeats: int = 3) -> np.ndarray:
    """Performance of equal methods: what the machine does to a block, and a spread of each run."""
    drawn = np.random.default_rng(seed)
    of_block = drawn.normal(0.0, 1.0, (tasks, 1, repeats))
    return np.exp(of_block + drawn.normal(0.0, deviation, (tasks, len(METHODS), repeats)))


def comparison(by_repeat: np.ndarray) -> Comparison:
    models = [MODELS[row % len(MODELS)] for row in range(len(by_repeat))]
    logs = np.log(by_repeat) - np.log(by_repeat[:, :1])
    tasks = tuple(BenchTask(model, "decode", f"c{row + 1}") for row, model in enumerate(models))
    return Comparison(tasks, METHODS, by_repeat, noise_of(logs, models, KINDS, 0))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("default", MethodKind.BATCHING),
        ("few-sequences", MethodKind.BATCHING),
        ("ngram", MethodKind.SPECULATION),
        ("static-prefix-caching", MethodKind.ONE_AT_A_TIME),
    ],
)
def test_noise_is_pooled_by_kind_of_method(name, kind):
    assert kind_of(name) is kind


def test_pools_squares_by_model_and_kind():
    logs = np.log(blocks(0.1, seed=1))
    logs -= logs[:, :1]
    found = noise_of(logs, MODELS, KINDS, 0)

    own = np.std(logs, axis=2, ddof=1)
    assert found.own[:, 1:] == pytest.approx(own[:, 1:])
    assert found.of_task[2, 1:] == pytest.approx(math.sqrt(np.mean(own[2, 1:] ** 2)))
    assert found.of_kind[:2, 1:4] == pytest.approx(math.sqrt(np.mean(own[:2, 1:4] ** 2)))
    assert found.of_kind[2:, 4] == pytest.approx(math.sqrt(np.mean(own[2:, 4] ** 2)))
    assert np.isnan(found.deviation[:, 0]).all()
    # Three ratios of a block, of two degrees each, share the default: they are worth 6 / 1.5; one is worth its own 2.
    assert found.freedom[0].tolist() == pytest.approx([0.0, 8.0, 8.0, 8.0, 4.0, 4.0])


def test_a_kind_that_a_model_did_not_repeat_has_the_noise_of_the_other_models():
    logs = np.log(blocks(0.1, seed=2))
    logs[:2, 5, 1:] = np.nan
    logs -= logs[:, :1]
    found = noise_of(logs, MODELS, KINDS, 0)

    assert np.isnan(found.own[:2, 5]).all()
    assert found.of_kind[0, 5] == found.of_kind[2, 5]
    assert found.of_task[0, 5] == pytest.approx(math.sqrt(np.mean(found.own[0, 1:5] ** 2)))


def test_a_noisy_task_is_held_to_its_own_noise():
    calm, noisy = blocks(0.01, seed=3), blocks(0.5, seed=3)
    found = comparison(np.concatenate([calm[:3], noisy[3:]]))

    assert (found.noise.deviation[3, 1:] > 0.2).all()
    assert (found.noise.deviation[:2, 1:] < 0.05).all()


@pytest.mark.parametrize("method", [0, 1], ids=["of the default", "of a method"])
@pytest.mark.parametrize("factor", [1.5, 3.0, 30.0])
def test_one_slow_run_shows_nothing(method, factor):
    by_repeat = blocks(0.01, seed=4)
    by_repeat[0, method, 1] /= factor

    effects = comparison(by_repeat).by_task()
    assert not any(effects["a/decode/c1", name].shown for name in METHODS[1:])


def test_equal_methods_are_hardly_ever_told_apart():
    """Of 100 studies at most about 5 may claim anything at all, of 80 comparisons each."""
    false = 0
    for seed in range(100):
        effects = comparison(blocks(0.1, seed, tasks=16)).by_task()
        false += any(effect.shown for effect in effects.values())

    assert false <= 5


def test_a_large_difference_is_shown_and_a_small_one_only_in_the_mean_over_many_tasks():
    large, small = METHODS.index("ngram"), METHODS.index("few-sequences")
    shown = []
    for seed in range(20):
        by_repeat = blocks(0.08, seed, tasks=16)
        by_repeat[:, large] *= 2.0
        by_repeat[:, small] *= 0.85
        found = comparison(by_repeat)
        task, traffic = found.by_task(), found.by_traffic()
        shown.append(
            (
                np.mean([task[key.key, "ngram"].above for key in found.tasks]),
                np.mean([task[key.key, "few-sequences"].below for key in found.tasks]),
                traffic["decode", "few-sequences"].below,
            )
        )

    of_large, of_small, of_mean = np.mean(shown, axis=0)
    assert of_large > 0.9 and of_small < 0.2 and of_mean > 0.9


means = st.builds(
    Mean,
    log=st.floats(-3.0, 3.0),
    error=st.floats(0.0, 1.0),
    freedom=st.floats(1.0, 100.0),
    tasks=st.just(1),
    blocks=st.just(3),
)


@given(table=st.lists(means, min_size=1, max_size=12), other=means)
def test_a_further_comparison_never_makes_others_more_certain(table, other):
    before, after = together(dict(enumerate(table))), together(dict(enumerate([*table, other])))

    assert all(after[place].low <= before[place].low for place in before)
    assert all(after[place].high >= before[place].high for place in before)


@given(mean=means)
def test_what_counts_as_equal_is_never_a_difference(mean):
    (effect,) = together({"it": mean}).values()

    assert effect.low <= effect.ratio <= effect.high
    assert not (effect.shown and 1 / 1.02 <= effect.ratio <= 1.02)
    assert not (effect.above and effect.below)
