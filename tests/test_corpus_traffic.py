"""Requests drawn from a declared traffic: as declared, the same under one seed, and common to all rates."""

import numpy as np
import pytest

from metainf.corpus.traffic import (
    HASH_BLOCK_TOKENS,
    drawn_acceptance,
    drawn_requests,
    earlier_traffic,
)
from metainf.settings import Speculation, SpeculationKind
from metainf.speculation import acceptance_ratio
from metainf.workload import (
    BatchLoad,
    ConcurrencyLoad,
    RateLoad,
    Repetitiveness,
    SharedPrefix,
    TokenLengths,
    Traffic,
)

MANY = 40_000


def traffic(load=None, **changes):
    given = {"input_tokens": TokenLengths(1000, 2500), "output_tokens": TokenLengths(200, 500), **changes}
    return Traffic(load or RateLoad(4.0), **given)


def test_lengths_have_the_declared_mean_and_p95():
    requests = drawn_requests(traffic(), MANY, seed=1)
    assert requests.input_tokens.mean() == pytest.approx(1000, rel=0.02)
    assert np.quantile(requests.input_tokens, 0.95) == pytest.approx(2500, rel=0.03)
    assert requests.output_tokens.mean() == pytest.approx(200, rel=0.02)
    assert requests.output_tokens.min() >= 1


def test_a_mean_alone_gives_constant_lengths():
    requests = drawn_requests(traffic(input_tokens=TokenLengths(77), output_tokens=TokenLengths(5)), 10, seed=1)
    assert set(requests.input_tokens) == {77}
    assert set(requests.output_tokens) == {5}


@pytest.mark.parametrize("burstiness", [0.0, 0.5, 1.0, 3.0])
def test_gaps_have_the_declared_rate_and_coefficient_of_variation(burstiness):
    gaps = np.diff(drawn_requests(traffic(burstiness=burstiness), MANY, seed=3).arrival_s)
    assert gaps.mean() == pytest.approx(0.25, rel=0.02 + 0.02 * burstiness)
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness, rel=0.1, abs=1e-6)


def test_another_rate_only_stretches_time():
    slow, fast = (drawn_requests(traffic(), 500, seed=5, requests_per_second=rate) for rate in (1.0, 8.0))
    assert slow.arrival_s == pytest.approx(8.0 * fast.arrival_s)
    assert np.array_equal(slow.input_tokens, fast.input_tokens)
    assert np.array_equal(slow.output_tokens, fast.output_tokens)


def test_the_first_of_many_are_those_of_few():
    shared = traffic(shared_prefix=SharedPrefix(320, 0.6, 7), burstiness=2.0)
    many, few = drawn_requests(shared, 900, seed=5), drawn_requests(shared, 100, seed=5)
    for name, count in (("arrival_s", 100), ("input_tokens", 100), ("output_tokens", 100), ("block_offsets", 101)):
        assert np.array_equal(getattr(many, name)[:count], getattr(few, name)), name
    assert np.array_equal(many.block_hashes[: few.block_offsets[-1]], few.block_hashes)


def test_seeds_differ():
    first, second = (drawn_requests(traffic(), 100, seed=seed) for seed in (1, 2))
    assert not np.array_equal(first.input_tokens, second.input_tokens)


def test_prefixes_have_their_share_their_number_and_whole_blocks():
    requests = drawn_requests(traffic(shared_prefix=SharedPrefix(330, 0.25, 5)), MANY, seed=2)
    blocks = np.diff(requests.block_offsets)
    assert set(blocks) == {0, 330 // HASH_BLOCK_TOKENS}
    assert (blocks > 0).mean() == pytest.approx(0.25, abs=0.01)
    assert len(np.unique(requests.block_hashes)) == 5 * (330 // HASH_BLOCK_TOKENS)


def test_a_prompt_is_longer_than_its_prefix_and_the_mean_stays_as_declared():
    requests = drawn_requests(traffic(shared_prefix=SharedPrefix(800, 1.0, 3)), MANY, seed=2)
    assert requests.input_tokens.min() > 800
    assert requests.input_tokens.mean() == pytest.approx(1000, rel=0.02)


def test_constant_prompts_with_a_prefix_stay_constant():
    constant = traffic(input_tokens=TokenLengths(1000), shared_prefix=SharedPrefix(800, 1.0, 3))
    assert set(drawn_requests(constant, 50, seed=2).input_tokens) == {1000}


def test_no_request_is_longer_than_the_model_takes():
    requests = drawn_requests(traffic(), MANY, seed=1, most_tokens=1200)
    assert (requests.input_tokens + requests.output_tokens).max() <= 1200
    assert requests.output_tokens.min() >= 1


@pytest.mark.parametrize(
    ("load", "clients"),
    [pytest.param(ConcurrencyLoad(9), 9, id="closed loop"), pytest.param(BatchLoad(50, 60.0), 0, id="batch")],
)
def test_requests_that_wait_for_nothing_come_at_zero(load, clients):
    requests = drawn_requests(traffic(load), 50, seed=1)
    assert requests.clients == clients
    assert not requests.arrival_s.any()


def test_acceptance_lies_around_what_its_class_has():
    ngram = Speculation(SpeculationKind.NGRAM, 4)
    drawn = [drawn_acceptance(ngram, Repetitiveness.HIGH, seed=seed) for seed in range(300)]
    assert np.median(drawn) == pytest.approx(acceptance_ratio(ngram, Repetitiveness.HIGH), abs=0.03)
    assert 0.0 < min(drawn) < max(drawn) < 1.0


def test_an_unknown_repetitiveness_turns_out_to_be_any():
    ngram = Speculation(SpeculationKind.NGRAM, 4)
    drawn = np.array([drawn_acceptance(ngram, Repetitiveness.UNKNOWN, seed=seed) for seed in range(500)])
    assert (drawn < 0.15).mean() == pytest.approx(0.55, abs=0.07)
    assert (drawn > 0.55).mean() == pytest.approx(0.14, abs=0.05)


def test_a_better_drafter_is_better_by_the_same_logit_under_every_seed():
    ngram = Speculation(SpeculationKind.NGRAM, 4)
    for seed in range(5):
        plain, better = (drawn_acceptance(ngram, Repetitiveness.HIGH, seed=seed, offset_logit=o) for o in (0.0, 0.3))
        assert np.log(better / (1.0 - better)) == pytest.approx(np.log(plain / (1.0 - plain)) + 0.3)


def test_a_head_accepts_nothing_far_beyond_what_it_was_trained_on():
    eagle = Speculation(SpeculationKind.EAGLE, 3)
    near, far, beyond = (
        drawn_acceptance(eagle, Repetitiveness.LOW, seed=1, context_tokens=n) for n in (2000.0, 12_000.0, 30_000.0)
    )
    assert near > far > beyond == 0.0


def test_earlier_requests_are_those_of_the_traffic():
    earlier = earlier_traffic(traffic(shared_prefix=SharedPrefix(330, 0.25, 5)))
    assert earlier is not None
    assert (earlier.prefixes, earlier.prefix_hashes, earlier.prefix_ratio) == (5, 330 // HASH_BLOCK_TOKENS, 0.25)
    assert earlier.own_tokens == pytest.approx(1000 + 200 - 0.25 * 330)
    assert earlier_traffic(traffic()) is None
    assert earlier_traffic(traffic(shared_prefix=SharedPrefix(HASH_BLOCK_TOKENS - 1))) is None


def test_without_speculation_nothing_is_accepted():
    assert drawn_acceptance(None, Repetitiveness.HIGH, seed=1) == 0.0
