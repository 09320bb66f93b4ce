"""The caution of a predictor in a choice: each candidate has its own, and it is in every limit that is judged."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from choices import pool, request, workload
from metainf.planning import outlooks
from metainf.predictors.contract import Predictions, Question
from metainf.selection import NoSelection, Selection, select
from metainf.workload import RateLoad
from stub_predictor import StubPredictor, capacity_by_accelerator

SD = 0.2
L4 = pool("l4", "L4-PCIe-24GB", per_node=1, nodes=8, price="1")
H100 = pool("h100", per_node=1, nodes=8, price="10")


class Careful(StubPredictor):
    """An L4 carries 4 requests/s and an H100 40, each with a caution of its own."""

    def __init__(self, cautions: Mapping[str, float]) -> None:
        super().__init__(capacity_by_accelerator(L4=4.0, H100=40.0), log_sd=SD)
        self._cautions = cautions

    def predict(self, questions: Sequence[Question]) -> Predictions:
        each = [self._cautions[question.replica.accelerator.family] for question in questions]
        return replace(super().predict(questions), caution=np.array(each, dtype=np.float64))


@pytest.mark.parametrize(
    ("cautions", "name"),
    [
        pytest.param({"L4": 1.0, "H100": 1.0}, "1 x default TP1 on l4", id="none -> the cheaper"),
        pytest.param({"L4": 4.0, "H100": 1.0}, "2 x default TP1 on l4", id="much -> one more of the cheaper"),
        pytest.param({"L4": 20.0, "H100": 1.0}, "1 x default TP1 on h100", id="too much -> the dear one"),
        pytest.param({"L4": 40.0, "H100": 40.0}, None, id="too much for either -> none"),
    ],
)
def test_each_candidate_is_held_to_its_own_caution(cautions: Mapping[str, float], name: str | None) -> None:
    outcome = select(request(workload(load=RateLoad(2)), L4, H100), Careful(cautions))
    if name is None:
        assert isinstance(outcome, NoSelection)
    else:
        assert isinstance(outcome, Selection)
        assert str(outcome.chosen.candidate.name) == name


@pytest.mark.parametrize("caution", [0.5, 1.0, 3.0])
def test_what_is_assured_and_how_surely_follow_from_the_cautious_spread(caution: float) -> None:
    outcome = select(request(workload(load=RateLoad(2)), L4), Careful({"L4": caution}))
    assert isinstance(outcome, Selection)
    load = outlooks(outcome.chosen)[0]
    z = outcome.chosen.assessment.z
    assert load.expected == pytest.approx(4.0 * outcome.chosen.candidate.replicas)
    assert load.assured == pytest.approx(load.expected * np.exp(-z * caution * SD))


def test_choosing_multiplies_every_spread_once() -> None:
    plain = _predictions(2)
    chosen_by = replace(plain, caution=np.array([2.0, 0.5])).for_choosing()
    np.testing.assert_allclose(chosen_by.latency_log_sd, plain.latency_log_sd * np.array([2.0, 0.5])[:, None, None])
    np.testing.assert_allclose(chosen_by.throughput_log_sd, [2 * SD, SD / 2])
    np.testing.assert_allclose(chosen_by.capacity_log_sd, [2 * SD, SD / 2])
    np.testing.assert_array_equal(chosen_by.latency_s, plain.latency_s)
    np.testing.assert_array_equal(chosen_by.for_choosing().capacity_log_sd, chosen_by.capacity_log_sd)


def test_tables_keep_the_caution_of_each_answer() -> None:
    one, other = replace(_predictions(2), caution=np.array([2.0, 0.5])), replace(_predictions(1), caution=3.0)
    both = one.followed_by(other)
    np.testing.assert_array_equal(both.caution, [2.0, 0.5, 3.0])
    assert len(both.for_choosing().capacity_log_sd) == 3


def _predictions(count: int) -> Predictions:
    columns = {
        name: np.ones(count)
        for name in ("output_tokens_per_second", "requests_per_second", "capacity_requests_per_second", "makespan_s")
    }
    return Predictions(
        latency_s=np.ones((count, 3, 4)),
        latency_log_sd=np.full((count, 3, 4), SD),
        throughput_log_sd=np.full(count, SD),
        capacity_log_sd=np.full(count, SD),
        utilization=np.full(count, 0.5),
        out_of_distribution=np.zeros(count, dtype=np.bool_),
        **columns,
    )
