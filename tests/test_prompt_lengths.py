import numpy as np
import pytest

from metainf.corpus.traffic import drawn_requests
from metainf.predictors.lanes import TrafficFacts, traffic_facts
from metainf.predictors.prompt_lengths import computed_at, computed_prompts, normal_quantile
from metainf.workload import BatchLoad, SharedPrefix, TokenLengths, Traffic

COUNT = 200_000
PREFIXES = [
    pytest.param(None, id="no prefix"),
    pytest.param(SharedPrefix(800, 1.0, 4), id="all begin with one"),
    pytest.param(SharedPrefix(800, 0.4, 4), id="some do"),
    pytest.param(SharedPrefix(1900, 1.0, 4), id="it is nearly the whole prompt"),
    pytest.param(SharedPrefix(2400, 0.5, 4), id="it is longer than the mean prompt"),
]


def declared(prefix: SharedPrefix | None) -> tuple[Traffic, TrafficFacts, np.ndarray]:
    """The traffic, its facts, and what of drawn prompts is left where each prefix is cached."""
    traffic = Traffic(BatchLoad(COUNT, 1.0), TokenLengths(2000, 5000), TokenLengths(10), prefix)
    drawn = drawn_requests(traffic, COUNT, seed=0)
    has = np.diff(drawn.block_offsets) > 0 if len(drawn.block_offsets) else np.zeros(COUNT, dtype=np.bool_)
    saved = np.where(has, 0 if prefix is None else min(prefix.tokens, 1999), 0)
    return traffic, traffic_facts(traffic), np.stack([drawn.input_tokens - saved, saved])


@pytest.mark.parametrize("prefix", PREFIXES[:-1])
def test_what_is_computed_is_what_drawn_prompts_leave(prefix: SharedPrefix | None) -> None:
    _, facts, (own, saved) = declared(prefix)
    hit = np.array(0.0 if prefix is None else prefix.ratio)
    tokens = np.array(0.0 if prefix is None else float(prefix.tokens))
    mean, squared_cv, context = computed_prompts(facts, hit, tokens)
    assert mean == pytest.approx(own.mean(), rel=0.03)
    assert squared_cv == pytest.approx(own.var() / own.mean() ** 2, rel=0.1)
    assert context == pytest.approx(float((own * (saved + own / 2)).sum() / own.sum()), rel=0.05)


@pytest.mark.parametrize("prefix", PREFIXES[:-1])
@pytest.mark.parametrize("quantile", [0.5, 0.95])
def test_hits_come_first_and_their_quantiles_are_those_of_drawn_prompts(
    prefix: SharedPrefix | None, quantile: float
) -> None:
    _, facts, (own, saved) = declared(prefix)
    ratio = 0.0 if prefix is None else prefix.ratio
    tokens = np.array(0.0 if prefix is None else float(prefix.tokens))
    (found,) = computed_at(facts, np.array(ratio), tokens, [quantile])
    group = own[saved > 0] if quantile <= ratio else own[saved == 0]
    level = quantile / ratio if quantile <= ratio else (quantile - ratio) / (1 - ratio)
    assert found == pytest.approx(float(np.quantile(group, level)), rel=0.05, abs=1.0)


def test_a_prefix_that_is_not_cached_leaves_whole_prompts() -> None:
    _, facts, _ = declared(SharedPrefix(800, 1.0, 4))
    mean, _, context = computed_prompts(facts, np.array(0.0), np.array(800.0))
    assert mean == 2000
    assert context > 1000


def test_a_prefix_longer_than_the_prompt_leaves_a_token() -> None:
    _, facts, _ = declared(SharedPrefix(2400, 0.5, 4))
    mean, squared_cv, _ = computed_prompts(facts, np.array(0.5), np.array(1999.0))
    assert mean == pytest.approx(1000.5)
    assert np.isfinite(squared_cv)
    assert computed_at(facts, np.array(0.5), np.array(1999.0), [0.3]) == [pytest.approx(1.0)]


def test_equal_prompts_do_not_vary() -> None:
    facts = traffic_facts(Traffic(BatchLoad(10, 1.0), TokenLengths(1000), TokenLengths(10), SharedPrefix(500)))
    assert computed_prompts(facts, np.array(0.0), np.array(0.0))[1] == 0
    assert computed_prompts(facts, np.array(1.0), np.array(496.0))[1] == 0


def test_normal_quantiles_are_close() -> None:
    assert normal_quantile(np.array([0.5, 0.95, 0.99])) == pytest.approx([0.0, 1.645, 2.326], abs=0.006)
