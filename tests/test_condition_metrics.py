"""The series of a workload's conditions: which there are, that they say what the status says, and when they go."""

from collections.abc import Callable

import pytest

from controller_passes import Around, pool, serving, with_pools, workload
from metainf_operator.api_errors import InvalidObjectError, UnreachableError
from metainf_operator.cluster_api import Verb
from metainf_operator.conditions import CONDITION_TYPES
from metainf_operator.metrics import SHOWN_CONDITIONS, Metrics
from metainf_operator.resources import ACCELERATOR_POOL, INFERENCE_WORKLOAD


def told(**statuses: str) -> list[dict[str, str]]:
    """Conditions as a status has them."""
    return [{"type": kind, "status": status, "reason": "Told", "message": ""} for kind, status in statuses.items()]


def lines(metrics: Metrics) -> set[str]:
    return {line for line in metrics.render().decode().splitlines() if line.startswith("metainf_workload_condition{")}


def line(name: str, kind: str, status: str) -> str:
    return f'metainf_workload_condition{{name="{name}",namespace="a",status="{status}",type="{kind}"}} 1.0'


# Series


def test_a_condition_has_a_series_for_the_status_that_holds_and_for_no_other() -> None:
    metrics = Metrics()
    for status in ("Unknown", "True", "False", "False", "Unknown", "False", "True"):
        metrics.set_conditions("a", "chat", told(SLOMet=status))
        assert lines(metrics) == {line("chat", "SLOMet", status)}


def test_what_is_not_told_any_more_has_no_series() -> None:
    metrics = Metrics()
    metrics.set_conditions("a", "chat", told(Ready="True", SLOMet="True"))
    metrics.set_conditions("a", "chat", told(Ready="False"))
    assert lines(metrics) == {line("chat", "Ready", "False")}


def test_of_all_conditions_only_those_that_alerts_need_are_shown() -> None:
    assert set(SHOWN_CONDITIONS) < set(CONDITION_TYPES)
    metrics = Metrics()
    metrics.set_conditions("a", "chat", told(**dict.fromkeys(CONDITION_TYPES, "False")))
    assert lines(metrics) == {line("chat", kind, "False") for kind in SHOWN_CONDITIONS}


def test_a_workload_that_is_gone_takes_its_series_along_and_no_others() -> None:
    metrics = Metrics()
    for name, status in (("chat", "False"), ("other", "True"), ("other", "False")):
        metrics.set_conditions("a", name, told(Ready=status, WithinBudget=status))
    metrics.set_conditions("b", "chat", told())
    metrics.forget_workload("a", "chat")
    metrics.forget_workload("a", "never seen")
    assert lines(metrics) == {line("other", "Ready", "False"), line("other", "WithinBudget", "False")}


# Passes


def as_the_status_has_them(around: Around) -> dict[str, str]:
    return {kind: around.condition(kind)[0] for kind in SHOWN_CONDITIONS}


def refused() -> Around:
    around = with_pools(Around())
    around.apply(workload(budget="0.5"))
    around.settle()
    return around


def over_its_budget() -> Around:
    around = with_pools(Around(), fast=0)
    around.apply(workload(budget="2"))
    around.settle()
    around.cluster.put(ACCELERATOR_POOL, pool("cheap", price="3"))
    around.settle()
    return around


def suspended() -> Around:
    around = serving()
    around.edit(suspend=True)
    around.settle()
    return around


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        pytest.param(serving, {"Ready": "True", "Feasible": "True", "WithinBudget": "True"}, id="serves"),
        pytest.param(refused, {"Ready": "False", "Feasible": "False", "WithinBudget": "True"}, id="refused"),
        pytest.param(over_its_budget, {"Ready": "False", "WithinBudget": "False"}, id="over its budget"),
        pytest.param(suspended, {"Ready": "Unknown", "WithinBudget": "True"}, id="suspended"),
    ],
)
def test_metrics_show_what_the_status_says(story: Callable[[], Around], expected: dict[str, str]) -> None:
    around = story()
    assert around.shown() == as_the_status_has_them(around)
    assert expected.items() <= around.shown().items()


def test_a_new_process_shows_what_stands_though_it_writes_nothing() -> None:
    around = over_its_budget()
    around.restart()
    assert around.shown() == {}
    around.reconcile()
    assert around.shown()["WithinBudget"] == "False"
    assert around.shown() == as_the_status_has_them(around)


def test_a_deleted_workload_leaves_no_series_behind() -> None:
    around = serving()
    assert len(around.shown()) == len(SHOWN_CONDITIONS)
    around.cluster.remove(INFERENCE_WORKLOAD, "chat", "team")
    around.reconcile()
    assert around.shown() == {}


def test_metrics_do_not_wait_for_a_status_that_cannot_be_written() -> None:
    around = with_pools(Around())
    around.apply(workload(budget="0.5"))
    around.cluster.fail(UnreachableError("away"), verb=Verb.APPLY_STATUS, resource=INFERENCE_WORKLOAD)
    with pytest.raises(UnreachableError):
        around.reconcile()
    assert around.status() == {}
    assert around.shown()["Feasible"] == "False"


def test_with_definitions_that_are_too_old_metrics_show_what_the_status_can_say() -> None:
    around = with_pools(Around())
    around.apply(workload())
    unknown = InvalidObjectError("InferenceWorkload chat: unknown field")
    around.cluster.fail(unknown, verb=Verb.APPLY_STATUS, resource=INFERENCE_WORKLOAD)
    around.reconcile()
    assert around.condition("Ready") == ("Unknown", "CRDTooOld")
    assert around.shown() == as_the_status_has_them(around)
