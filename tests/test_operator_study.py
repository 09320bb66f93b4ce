"""What the operator's own selection buys, held against a world in which every candidate can be simulated."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from metainf import accelerators
from metainf.corpus.task import Task, TrafficKind
from metainf.evaluation.operator_study import OperatorStudy, StudyPlan, study_operator
from metainf.evaluation.prices import accelerator_prices, replica_prices
from metainf.layouts import Layout
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.contract import Predictions, Predictor, PredictorIdentity, Question
from metainf.step_times.worlds import HiddenWorld
from metainf.workload import (
    BatchLoad,
    ConcurrencyLoad,
    LatencyMetric,
    Load,
    Slo,
    SloBound,
    Statistic,
    TokenLengths,
    Traffic,
)
from selection_tables import method_table

MODEL = "Qwen/Qwen2.5-7B-Instruct"


class Boaster:
    """Says that everything takes no time."""

    identity = PredictorIdentity("boaster", "sha256:0")

    def predict(self, questions: Sequence[Question]) -> Predictions:
        found = AnalyticalPredictor().predict(questions)
        return replace(
            found,
            latency_s=found.latency_s * 1e-6,
            capacity_requests_per_second=found.capacity_requests_per_second * 1e6,
            makespan_s=found.makespan_s * 1e-6,
        )


def task(load: Load, ttft_s: float | None = None) -> Task:
    bounds = () if ttft_s is None else (SloBound(LatencyMetric.TTFT, Statistic.P95, ttft_s),)
    traffic = Traffic(load, TokenLengths(400.0), TokenLengths(60.0))
    return Task(MODEL, "H100-SXM-80GB", Layout(), traffic, Slo(bounds))


def predictors(_: str) -> Mapping[str, Predictor]:
    return {"analytical": AnalyticalPredictor(), "boaster": Boaster()}


@pytest.fixture(scope="module")
def study() -> OperatorStudy:
    tasks = [task(ConcurrencyLoad(16), 1.5), task(BatchLoad(64, 60.0)), task(ConcurrencyLoad(8))]
    return study_operator(tasks, HiddenWorld(0), predictors, StudyPlan(workloads=1, options=6))


def test_a_boast_buys_what_breaks_its_promise(study: OperatorStudy) -> None:
    found = study.figures[TrafficKind.CONCURRENCY]
    assert found["boaster"].infeasible.value == 1.0
    assert found["analytical"].infeasible.value == 0.0
    assert found["analytical"].usd_above.value >= 0.0
    assert found["analytical"].cheapest_total_usd > 0.0


def test_only_workloads_with_limits_are_studied(study: OperatorStudy) -> None:
    assert set(study.figures) == {TrafficKind.CONCURRENCY, TrafficKind.BATCH}
    assert all(each.workloads == 1 for figures in study.figures.values() for each in figures.values())


def test_a_batch_is_counted_in_total(study: OperatorStudy) -> None:
    found = study.figures[TrafficKind.BATCH]["analytical"]
    assert found.infeasible.value == 0.0
    assert 0.0 < found.cheapest_total_usd <= found.total_usd < 0.5


def test_every_price_is_of_an_accelerator_of_the_catalogue_and_the_least_of_its_nodes() -> None:
    prices = accelerator_prices()
    assert all(accelerators.get(name) is not None for name in prices)
    assert prices["H100-SXM-80GB"].usd_per_hour == pytest.approx(6.88)
    assert prices["L4-PCIe-24GB"].instance_type == "g6.xlarge"


def test_a_replica_costs_its_accelerators_and_unknown_ones_have_no_price() -> None:
    table = method_table(np.ones((3, 2)), accelerator=["L4-PCIe-24GB", "L4-PCIe-24GB", "MI300X-OAM-192GB"])
    one = replica_prices(table.tasks, whole_replica=False)
    assert one[:2].tolist() == pytest.approx([0.8048, 0.8048])
    assert np.isnan(one[2])
    assert np.isnan(replica_prices(table.tasks, whole_replica=True)).all()  # nothing says how many make up a replica
    features = np.log([[1.0], [4.0], [1.0]])
    known = replace(table.tasks, features=features, feature_names=("layout_accelerators",))
    assert replica_prices(known, whole_replica=True)[:2].tolist() == pytest.approx([0.8048, 4 * 0.8048])
