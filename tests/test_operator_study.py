"""What the operator's own selection buys, held against a world in which every candidate can be simulated."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np
import pytest

from metainf import accelerators
from metainf.corpus.task import Task, TrafficKind
from metainf.dtypes import DType
from metainf.evaluation.operator_study import OperatorStudy, StudyPlan, study_operator, study_policies
from metainf.evaluation.operator_truths import Judged, Priced, Unknown, facts_of, judged_of
from metainf.evaluation.prices import accelerator_prices, assumed_usd_per_hour, replica_prices
from metainf.layouts import Layout
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.contract import Predictions, Predictor, PredictorIdentity, Question, ReplicaSpec
from metainf.simulator.contract import HostTimes, StepTimes
from metainf.step_times.worlds import HiddenWorld
from metainf.workload import (
    BatchLoad,
    Budget,
    BudgetKind,
    ConcurrencyLoad,
    LatencyMetric,
    Load,
    LossyPolicy,
    Slo,
    SloBound,
    Statistic,
    TokenLengths,
    Traffic,
)
from selection_tables import method_table

MODEL = "Qwen/Qwen2.5-7B-Instruct"


class Boaster:
    """Says that everything takes no time, so that whatever costs least by the hour does all there is to do."""

    identity = PredictorIdentity("boaster", "sha256:0")

    def predict(self, questions: Sequence[Question]) -> Predictions:
        found = AnalyticalPredictor().predict(questions)
        return replace(
            found,
            latency_s=found.latency_s * 1e-6,
            capacity_requests_per_second=found.capacity_requests_per_second * 1e6,
            output_tokens_per_second=np.full(len(questions), 1e6),
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
    plan = StudyPlan(workloads=1, options=6, lossy=LossyPolicy.ALLOW)
    return study_operator(tasks, lambda _: HiddenWorld(1), predictors, plan)


def test_a_boast_buys_what_breaks_its_promise(study: OperatorStudy) -> None:
    found = study.figures[TrafficKind.CONCURRENCY]
    assert found["boaster"].infeasible.value == 1.0
    assert found["analytical"].infeasible.value == 0.0
    assert found["analytical"].usd_above.value >= 0.0
    assert found["analytical"].cheapest_total_usd > 0.0


@dataclass(frozen=True)
class HopperWorld(HiddenWorld):
    """Has tables of BF16 on H100s alone."""

    def times(self, replica: ReplicaSpec, seed: int) -> tuple[StepTimes, HostTimes] | None:
        known = replica.accelerator.name == "H100-SXM-80GB" and replica.settings.weight_dtype is not DType.FP8
        return super().times(replica, seed) if known else None


class Choosy:
    """Says that nothing but FP8 weights ends in time."""

    identity = PredictorIdentity("choosy", "sha256:0")

    def predict(self, questions: Sequence[Question]) -> Predictions:
        found = AnalyticalPredictor().predict(questions)
        return replace(found, latency_s=found.latency_s * np.where(narrow(questions), 1.0, 1e6)[:, None, None])


def narrow(questions: Sequence[Question]) -> np.ndarray:
    return np.array([q.replica.settings.weight_dtype is DType.FP8 for q in questions])


def test_what_a_world_knows_nothing_of_is_neither_kept_nor_broken() -> None:
    tasks = [task(ConcurrencyLoad(16), 1.5)]
    offered: list[set[str]] = []

    class Watching(AnalyticalPredictor):
        """Thinks nothing of FP8 weights."""

        def predict(self, questions: Sequence[Question]) -> Predictions:
            offered.append({q.replica.accelerator.name for q in questions})
            found = super().predict(questions)
            tokens = np.where(narrow(questions), 1e-6, found.output_tokens_per_second)
            return replace(found, output_tokens_per_second=tokens)

    def asked(_: str) -> Mapping[str, Predictor]:
        return {"analytical": Watching(), "choosy": Choosy()}

    plan = StudyPlan(workloads=1, options=6, lossy=LossyPolicy.ALLOW)
    study = study_operator(tasks, lambda _: HopperWorld(0), asked, plan)
    assert set.union(*offered) == {"H100-SXM-80GB"}
    found = study.figures[TrafficKind.CONCURRENCY]
    assert "choosy" not in found, "all that it chose is unknown"
    for figures in found.values():
        assert (figures.workloads, figures.unknown, figures.infeasible.value) == (1, 0, 0.0)


@pytest.mark.parametrize("lossy", list(LossyPolicy))
def test_lossy_methods_are_offered_only_where_they_are_allowed(lossy: LossyPolicy) -> None:
    seen: list[bool] = []

    class Watching(AnalyticalPredictor):
        def predict(self, questions: Sequence[Question]) -> Predictions:
            settings = [question.replica.settings for question in questions]
            seen.append(any(DType.FP8 in (each.weight_dtype, each.kv_cache_dtype) for each in settings))
            return super().predict(questions)

    plan = StudyPlan(workloads=1, options=2, lossy=lossy)
    found = study_operator(
        [task(ConcurrencyLoad(16), 1.5)], lambda _: HiddenWorld(1), lambda _: {"analytical": Watching()}, plan
    )
    assert found.lossy is lossy
    assert any(seen) is (lossy is LossyPolicy.ALLOW)


def test_policies_are_studied_on_the_same_workloads_and_nothing_is_simulated_twice() -> None:
    seeds: list[int] = []

    @dataclass(frozen=True)
    class Counting(HiddenWorld):
        def times(self, replica: ReplicaSpec, seed: int) -> tuple[StepTimes, HostTimes]:
            seeds.append(seed)
            return super().times(replica, seed)

    def studied(*policies: LossyPolicy) -> tuple[OperatorStudy, ...]:
        seeds.clear()
        plan = StudyPlan(workloads=1, options=4)
        return study_policies(
            [task(ConcurrencyLoad(16), 1.5)], lambda _: Counting(1), predictors, plan, policies=policies
        )

    (once,) = studied(LossyPolicy.NEVER)
    simulated = sum(seed != 0 for seed in seeds)  # 0 asks what the world knows
    first, again = studied(LossyPolicy.NEVER, LossyPolicy.NEVER)
    assert sum(seed != 0 for seed in seeds) == simulated > 0
    usd = [study.figures[TrafficKind.CONCURRENCY]["analytical"].total_usd for study in (once, first, again)]
    assert usd[0] == usd[1] == usd[2]
    both = studied(*LossyPolicy)
    assert [study.lossy for study in both] == [LossyPolicy.NEVER, LossyPolicy.ALLOW]
    assert {study.figures[TrafficKind.CONCURRENCY]["analytical"].workloads for study in both} == {1}


def test_a_workload_that_is_kept_is_neither_chosen_for_nor_simulated_again() -> None:
    kept: dict[str, str] = {}
    anew: list[str] = []

    def keep(about: str, judge: Callable[[], Judged | None]) -> Judged | None:
        if about not in kept:
            anew.append(about)
            kept[about] = json.dumps(facts_of(judge()))
        return judged_of(json.loads(kept[about]))

    def studied(options: int, *loads: Load) -> tuple[OperatorStudy, ...]:
        tasks = [task(load, 1.5) for load in loads]
        plan = StudyPlan(workloads=2, options=options)
        anew.clear()
        return study_policies(tasks, lambda _: HiddenWorld(1), predictors, plan, keep=keep)

    first = studied(2, ConcurrencyLoad(16))
    assert len(anew) == 2, "one workload under two policies"
    tasks, plan = [task(ConcurrencyLoad(16), 1.5)], StudyPlan(workloads=2, options=2)
    assert repr(first) == repr(study_policies(tasks, lambda _: HiddenWorld(1), predictors, plan))
    again = studied(2, ConcurrencyLoad(16))
    assert (anew, repr(again)) == ([], repr(first))
    studied(3, ConcurrencyLoad(16))
    assert len(anew) == 2, "other options are tried"
    studied(2, ConcurrencyLoad(16), ConcurrencyLoad(8))
    assert len(anew) == 2, "the other workload"


def test_what_came_of_a_workload_is_read_back_as_it_was() -> None:
    judged = {"refuses": None, "unknown": Unknown(), "dear": Priced(float("inf"), False)}, [Priced(0.1, True)]
    found = judged_of(json.loads(json.dumps(facts_of(judged))))
    assert found is not None
    chosen, tried = found
    assert list(chosen) == ["refuses", "unknown", "dear"]
    assert chosen["refuses"] is None and isinstance(chosen["unknown"], Unknown)
    assert (chosen["dear"], tried) == (Priced(float("inf"), False), [Priced(0.1, True)])
    assert judged_of(facts_of(None)) is None
    for wrong in ({}, {"asked": True}, {"asked": True, "chosen": {}, "tried": [1.0]}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            judged_of(wrong)


def test_each_workload_is_judged_by_its_own_world() -> None:
    tasks = [task(ConcurrencyLoad(16), 1.5), task(ConcurrencyLoad(8), 1.5)]
    asked: list[int] = []

    def own(each: Task) -> HiddenWorld:
        load = each.traffic.load
        assert isinstance(load, ConcurrencyLoad)
        asked.append(load.concurrency)
        return HiddenWorld(load.concurrency)

    study = study_operator(tasks, own, predictors, StudyPlan(workloads=2, options=2))
    assert asked == [16, 8]
    assert study.figures[TrafficKind.CONCURRENCY]["analytical"].workloads == 2


def test_only_workloads_with_limits_are_studied(study: OperatorStudy) -> None:
    assert set(study.figures) == {TrafficKind.CONCURRENCY, TrafficKind.BATCH}
    assert all(each.workloads == 1 for figures in study.figures.values() for each in figures.values())


def test_a_batch_is_counted_in_total(study: OperatorStudy) -> None:
    found = study.figures[TrafficKind.BATCH]["analytical"]
    assert found.infeasible.value == 0.0
    assert 0.0 < found.cheapest_total_usd <= found.total_usd < 0.5


def test_a_choice_that_breaks_its_budget_is_infeasible_and_what_cannot_keep_it_is_not_made() -> None:
    batch = task(BatchLoad(64, 60.0))
    budgets = {batch.key: Budget(BudgetKind.TOTAL, Decimal("0.0001"))}
    plan = StudyPlan(workloads=1, options=2)
    found = study_operator([batch], lambda _: HiddenWorld(1), predictors, plan, budgets=budgets)
    figures = found.figures[TrafficKind.BATCH]
    assert figures["boaster"].infeasible.value == 1.0
    assert np.isnan(figures["analytical"].infeasible.value), "it buys nothing"
    assert np.isnan(figures["analytical"].false_refusals.value), "and nothing would have done"


def test_budgets_are_the_same_under_both_policies() -> None:
    batch = task(BatchLoad(64, 60.0))
    budgets = {batch.key: Budget(BudgetKind.TOTAL, Decimal("0.0001"))}
    plan = StudyPlan(workloads=1, options=2)
    found = study_policies([batch], lambda _: HiddenWorld(1), predictors, plan, budgets=budgets)
    assert [each.lossy for each in found] == list(LossyPolicy)
    assert [each.figures[TrafficKind.BATCH]["boaster"].infeasible.value for each in found] == [1.0, 1.0]


def test_a_workload_with_a_budget_alone_has_a_limit() -> None:
    free = task(ConcurrencyLoad(8))
    plan = StudyPlan(workloads=1, options=2)
    assert study_operator([free], lambda _: HiddenWorld(1), predictors, plan).figures == {}
    budgets = {free.key: Budget(BudgetKind.PER_MILLION_TOKENS, Decimal(1000))}
    found = study_operator([free], lambda _: HiddenWorld(1), predictors, plan, budgets=budgets)
    assert found.figures[TrafficKind.CONCURRENCY]["analytical"].infeasible.value == 0.0


def test_every_price_is_of_an_accelerator_of_the_catalogue_and_the_least_of_its_nodes() -> None:
    prices = accelerator_prices()
    assert all(accelerators.get(name) is not None for name in prices)
    assert prices["H100-SXM-80GB"].usd_per_hour == pytest.approx(6.88)
    assert prices["L4-PCIe-24GB"].instance_type == "g6.xlarge"


def test_what_has_no_list_price_is_assumed_to_cost_what_its_bandwidth_does() -> None:
    prices = accelerator_prices()
    for name, price in prices.items():
        assert assumed_usd_per_hour(name) == price.usd_per_hour
    per_byte = [
        assumed_usd_per_hour(name) / device.memory_bandwidth_bytes_per_s
        for name in ("MI300X-OAM-192GB", "H200-SXM-141GB")
        if (device := accelerators.get(name)) is not None
    ]
    assert per_byte[0] == pytest.approx(per_byte[1])
    assert assumed_usd_per_hour("L4-PCIe-24GB") < assumed_usd_per_hour("H200-SXM-141GB")


def test_a_replica_costs_its_accelerators_and_unknown_ones_have_no_price() -> None:
    table = method_table(np.ones((3, 2)), accelerator=["L4-PCIe-24GB", "L4-PCIe-24GB", "MI300X-OAM-192GB"])
    one = replica_prices(table.tasks, whole_replica=False)
    assert one[:2].tolist() == pytest.approx([0.8048, 0.8048])
    assert np.isnan(one[2])
    assert np.isnan(replica_prices(table.tasks, whole_replica=True)).all()  # nothing says how many make up a replica
    features = np.log([[1.0], [4.0], [1.0]])
    known = replace(table.tasks, features=features, feature_names=("layout_accelerators",))
    assert replica_prices(known, whole_replica=True)[:2].tolist() == pytest.approx([0.8048, 4 * 0.8048])
