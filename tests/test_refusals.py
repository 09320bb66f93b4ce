"""The tables on refusals, on made-up choices whose truth is known."""

import numpy as np
import pytest

from benchmarks.refusals import Choices, at_the_edge, ideal_case, slack_errors
from metainf.evaluation.calibration import CalibrationCase, cheapest_with
from metainf.training.decision_pairs import RATE_REPLICAS, Pairs
from metainf.training.decisions import decided

REPLICAS = np.array(RATE_REPLICAS, dtype=np.float64)


def pairs(slack: np.ndarray, each: int = 4) -> Pairs:
    """Cases of so many methods that cost the same, with these slacks; of rates where there are numbers of replicas."""
    count, width = slack.shape
    numbers = np.arange(count)
    return Pairs(
        case=numbers // each,
        lane=numbers,
        complexity=np.zeros(count),
        usd_per_hour=np.ones(count),
        load=np.ones((count, width)),
        usd=np.ones((count, width)),
        budget_usd=np.full(count, np.inf),
        slack=slack,
        bounds_s=np.full((count, 12), np.inf),
        deadline_s=np.full(count, np.inf),
    )


def choices(slack: np.ndarray) -> Choices:
    made = pairs(slack)
    groups = np.array([f"g{number % 12:02}" for number in made.case.tolist()])
    return Choices(made, made.case, slack, slack, np.zeros_like(slack), groups)


DRAWN = np.random.default_rng(0).normal(0.0, 1.0, size=(2400, 1))


def test_who_is_never_off_breaks_nothing_and_refuses_what_nobody_serves() -> None:
    found = decided([ideal_case(choices(DRAWN), 1e-6, seed=0)], 1.0)
    assert (found.violations, found.false_refusals) == (0.0, 0.0)
    assert found.refusals == pytest.approx(np.mean(DRAWN.reshape(-1, 4).max(axis=1) < 0.0))


def test_larger_errors_refuse_more_at_what_they_are_known_to_be() -> None:
    refused = [decided([ideal_case(choices(DRAWN), sd, seed=0)], 1.0).false_refusals for sd in (0.05, 0.2, 0.5)]
    assert refused == sorted(refused)
    assert refused[0] < 0.05 < refused[2]


def test_an_ideal_predictor_that_barely_passes_is_right_as_often_as_it_says() -> None:
    alone = np.random.default_rng(1).uniform(-3.0, 3.0, size=(40_000, 1))
    case = ideal_case(
        Choices(pairs(alone, 1), np.arange(40_000), alone, alone, 0 * alone, np.full(40_000, "g")), 0.3, 0
    )
    picks, broken = at_the_edge([case], 0.95, 1.05)
    assert picks > 100
    assert broken == pytest.approx(0.1, abs=0.04)


def test_the_edge_is_of_the_cheapest_that_is_far_enough_away() -> None:
    case = CalibrationCase(
        margin=np.array([[0.2, 0.6], [0.8, 2.0], [-np.inf, 0.1], [0.6, 0.6]]),
        kept=np.array([[True, False], [True, True], [True, True], [True, False]]),
        cost=np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0], [1.0, 2.0]]),
        groups=np.array(["a", "a", "b", "b"]),
    )
    assert cheapest_with(case, 0.5).tolist() == [1, 1, -1, 0]
    assert at_the_edge([case], 0.5, 1.0) == (2, 0.5)
    picks, share = at_the_edge([case], 5.0, 6.0)
    assert picks == 0
    assert np.isnan(share)


def test_errors_of_slack_are_of_pairs_near_their_limits() -> None:
    slack = np.array([[0.5], [-0.9], [3.0], [-np.inf]])
    np.testing.assert_allclose(slack_errors(pairs(slack), slack + 0.1), [0.1, 0.1])


def test_the_slack_of_a_rate_is_that_of_the_load_it_carries() -> None:
    # Carried by 3.5 replicas as predicted and by 4.5 in truth; never; and by any number of them: nothing to compare.
    predicted, true = (np.log(REPLICAS / each) for each in (3.5, 4.5))
    room = np.stack([predicted, np.full_like(predicted, -1.0), predicted + 10.0])
    # More than ten replicas are over the budget.
    slack = np.stack([np.where(REPLICAS > 10, -np.inf, true), true, true])
    np.testing.assert_allclose(slack_errors(pairs(slack), room), [np.log(4.5 / 3.5)])
