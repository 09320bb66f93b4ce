"""What drafts gain: less the further a context is from what the drafter was trained on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metainf.settings import Speculation, SpeculationKind
from metainf.speculation import acceptance_ratio, context_share, drafting_context_tokens, mean_tokens, tokens_per_step
from metainf.workload import ConcurrencyLoad, Repetitiveness, TokenLengths, Traffic

EAGLE = Speculation(SpeculationKind.EAGLE, 3)
UNKNOWN = Repetitiveness.UNKNOWN


@pytest.mark.parametrize(
    ("context_tokens", "measured"),
    [
        *((2048, 2.295), (4096, 2.040), (6144, 1.863), (8192, 1.687)),
        *((10240, 1.400), (12288, 1.289), (14336, 1.161), (16384, 1.090)),
    ],
)
def test_a_head_gains_what_was_measured_at_each_context(context_tokens: int, measured: float) -> None:
    # Source: EAGLE-3 on Qwen3-8B over LongBench v2, vllm-project/speculators#684.
    assert tokens_per_step(EAGLE, UNKNOWN, context_tokens) == pytest.approx(measured, rel=0.05)


@given(st.floats(0.0, 1e6), st.floats(0.0, 1e6))
def test_acceptance_never_rises_with_the_context_and_stays_a_probability(context: float, more: float) -> None:
    near, far = (acceptance_ratio(EAGLE, UNKNOWN, n) for n in (context, context + more))
    assert 0.0 <= far <= near <= acceptance_ratio(EAGLE, UNKNOWN)


@pytest.mark.parametrize("kind", [SpeculationKind.NGRAM, SpeculationKind.MTP, SpeculationKind.DRAFT_MODEL])
def test_other_drafts_are_as_good_at_every_context(kind: SpeculationKind) -> None:
    other = Speculation(kind, 3)
    assert acceptance_ratio(other, UNKNOWN, 30_000.0) == acceptance_ratio(other, UNKNOWN)


def test_where_no_context_is_known_it_is_a_short_one() -> None:
    assert acceptance_ratio(EAGLE, UNKNOWN) == acceptance_ratio(EAGLE, UNKNOWN, 100.0) == 0.62
    assert float(context_share(2048.0)) == 1.0


def test_many_lanes_gain_what_each_does() -> None:
    accepted, drafts = np.array([0.0, 0.5, 0.5]), np.array([0.0, 1.0, 3.0])
    assert mean_tokens(accepted, drafts).tolist() == pytest.approx([1.0, 1.5, 1.875])


@pytest.mark.parametrize("answers", [TokenLengths(200.0), TokenLengths(200.0, 500.0)], ids=["equal", "spread"])
def test_the_context_of_a_step_is_the_prompt_and_what_is_answered_by_then(answers: TokenLengths) -> None:
    sd = answers.log_sd
    drawn = answers.mean_tokens * np.exp(sd * np.random.default_rng(0).standard_normal(400_000) - sd * sd / 2.0)
    expected = 1000.0 + (drawn**2 / 2.0).sum() / drawn.sum()  # the step after n tokens, over all steps of all answers
    traffic = Traffic(ConcurrencyLoad(1), TokenLengths(1000.0), answers)
    assert drafting_context_tokens(traffic) == pytest.approx(expected, rel=0.01)
