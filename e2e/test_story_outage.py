"""The API server goes away, and watches miss what happens: the operator comes through, and its pods do not care."""

import time
from collections.abc import Iterator

import pytest

from e2e.cluster import Kind, start_apiserver, stop_apiserver
from e2e.operator_process import OperatorProcess, Operators
from e2e.story import Story, workload
from e2e.waiting import eventually

pytestmark = pytest.mark.e2e

_AWAY_S = 60.0


@pytest.fixture
def ours(place: Story) -> Iterator[Story]:
    """A place in a cluster whose API server may be stopped; it runs again afterwards."""
    if place.cluster.kind is Kind.GIVEN:
        pytest.skip("the API server of a given cluster is not ours to stop")
    yield place
    start_apiserver(place.cluster)


@pytest.fixture
def patient(operators: Operators, ours: Story) -> Iterator[OperatorProcess]:
    """An operator whose Lease outlasts the outage of a few seconds, so that it keeps its caches."""
    operators.rest()
    ours.operator = operators.another(
        "operator-patient", METAINF_LEASE_DURATION_S="120", METAINF_LEASE_RENEW_DEADLINE_S="100"
    ).start_leading()
    yield ours.operator
    ours.operator.stop()  # hands the Lease over: the next operator is not to wait for two minutes
    operators.end_others()


def test_an_api_server_away_for_a_minute_costs_no_pod_and_all_goes_on_when_it_is_back(
    ours: Story, operators: Operators
) -> None:
    operator = operators.usual()
    ours.operator = operator
    ours.node("l4", "3.40")
    ours.apply(workload())
    ours.ready("chat")
    before = {pod["metadata"]["uid"] for pod in ours.pods("chat")}
    stop_apiserver(ours.cluster)
    gone_at_s = time.monotonic()
    assert operator.wait_for_end(within_s=25) == 1  # it lost the Lease, and says so to whoever restarts it
    operator.start()
    while time.monotonic() - gone_at_s < _AWAY_S:
        assert operator.running, f"it ended while the API server was away:\n{operator.tail()}"
        time.sleep(1)
    start_apiserver(ours.cluster)
    eventually(operator.assert_leading, within_s=40)
    ours.apply(workload("later"))
    ours.ready("later", within_s=40)
    ours.ready("chat")
    assert {pod["metadata"]["uid"] for pod in ours.pods("chat")} == before


def test_a_short_outage_is_sat_out_without_a_restart(ours: Story, patient: OperatorProcess) -> None:
    ours.node("l4", "3.40")
    ours.apply(workload())
    ours.ready("chat")
    stop_apiserver(ours.cluster)
    time.sleep(5)
    start_apiserver(ours.cluster)
    ours.apply(workload("later"))
    ours.ready("later", within_s=60)
    assert patient.running
    patient.assert_sane(0, forbidden=True)  # what a server says that does not know its roles yet


def test_what_is_deleted_while_the_watches_are_cut_is_no_ghost(ours: Story, patient: OperatorProcess) -> None:
    small = ours.node("l4", "3.40")
    ours.node("l40s", "4.00")
    ours.apply(workload("first", scaling={"replicas": 4}))
    assert ours.ready("first")["accelerator"].startswith("L4-")
    ghost = ours.nodes[1]
    patient.freeze()
    ours.kube.delete("InferenceWorkload", "first")
    eventually(lambda: _assert_nothing_left(ours))
    ours.remove_node(ghost)
    stop_apiserver(ours.cluster)  # a new server knows no events of before: the watches start from a listing
    start_apiserver(ours.cluster)
    patient.thaw()
    ours.apply(workload("second", scaling={"replicas": 4}))
    status = ours.ready("second", within_s=60)
    assert (status["accelerator"][:3], status["replicas"]) == ("L4-", 4)
    assert {pod["spec"]["nodeName"] for pod in ours.pods("second")} == {small}
    pools = {price["pool"] for price in ours.decision("second")["spec"]["prices"]}
    assert not any("l40s" in pool for pool in pools), f"the deleted node still counts: {pools}"


def _assert_nothing_left(story: Story) -> None:
    for kind in ("Pod", "Deployment", "Service", "InferenceDecision"):
        assert story.kube.list(kind) == [], f"{kind}s are left"
