"""The cheapest pool that keeps every limit wins; where none does, it is said what would."""

from decimal import Decimal

import pytest

from e2e.story import Story, workload
from e2e.waiting import always

pytestmark = pytest.mark.e2e


def _cost(status: dict[str, object]) -> Decimal:
    return Decimal(str(status["costPerHour"]).split()[0])


@pytest.mark.parametrize(
    ("l4", "l40s", "winner"),
    [
        pytest.param("3.40", "12.00", "L4-", id="the L4s are cheaper"),
        pytest.param("12.00", "4.00", "L40S", id="the L40S are cheaper"),
    ],
)
def test_the_cheapest_pool_wins(story: Story, l4: str, l40s: str, winner: str) -> None:
    story.node("l4", l4)
    story.node("l40s", l40s)
    story.apply(workload())
    status = story.ready("chat")
    assert status["accelerator"].startswith(winner)
    assert _cost(status) == Decimal(min(l4, l40s, key=Decimal)) / 4


def test_an_slo_that_the_cheap_pool_cannot_keep_forces_a_dearer_one(story: Story) -> None:
    story.node("l4", "3.40")
    story.node("h100", "80.00")
    story.apply(workload("slow"))
    story.apply(workload("quick", slo={"tpot": {"p95": "25ms"}}))
    slow, quick = story.ready("slow"), story.ready("quick")
    assert slow["accelerator"].startswith("L4")
    assert quick["accelerator"].startswith("H100")
    assert _cost(quick) > _cost(slow)
    missed = [r for r in story.decision("quick")["spec"]["rejections"] if r["reason"] == "SLOMissed"]
    assert missed, "the decision does not say that the SLO turned others away"


def test_a_budget_too_low_is_refused_with_the_cheapest_that_would_work_and_that_one_works(story: Story) -> None:
    story.node("l4", "3.40")
    story.node("h100", "80.00")
    story.apply(workload(budget={"perHour": "0.10"}))
    message = story.refused("chat", "BudgetTooLow")
    assert "0.10" in message or "0.1 " in message
    ready = story.condition("chat", "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "BudgetTooLow")
    (decision,) = story.decisions("chat", "Refused")
    refusal = decision["spec"]["refusal"]
    assert refusal["limit"] == "BudgetTooLow"
    enough = refusal["cheapestBudget"]["perHour"]
    assert enough in message
    assert story.deployments("chat") == []
    story.change("chat", budget={"perHour": enough})
    assert _cost(story.ready("chat")) <= Decimal(enough)


def test_what_is_refused_buys_nothing_and_serves_nothing(story: Story) -> None:
    story.node("l4", "3.40")
    story.apply(workload(slo={"tpot": {"p95": "1ms"}}))
    assert "tpot p95" in story.refused("chat", "SLOUnreachable")

    def assert_nothing_runs() -> None:
        assert story.deployments("chat") == []
        assert story.kube.find("Service", "chat") is None
        assert story.status("chat")["replicas"] == 0

    always(assert_nothing_runs, for_s=2)


def test_spot_nodes_are_taken_only_where_they_are_allowed(story: Story) -> None:
    story.node("l4", "3.40")
    spot = story.node("l4-spot", "1.10")
    story.apply(workload("careful"))
    story.apply(workload("bold", placement={"spot": "Allow"}))
    careful, bold = story.ready("careful"), story.ready("bold")
    assert "spot" not in careful["pool"]
    assert "spot" in bold["pool"]
    assert {pod["spec"]["nodeName"] for pod in story.pods("bold")} == {spot}
