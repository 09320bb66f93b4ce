"""Two operators, of which one acts: whoever loses the Lease writes no more, and the other goes on."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from e2e.cluster import Request, mark, requests
from e2e.operator_process import OperatorProcess, Operators, install_account
from e2e.story import Story, workload
from e2e.waiting import always, eventually

pytestmark = pytest.mark.e2e


@dataclass(eq=False)
class Pair:
    """Two operators of two users, so that the audit log tells them apart."""

    leader: OperatorProcess
    standby: OperatorProcess
    since: int
    story: Story

    def acts(self, operator: OperatorProcess) -> list[Request]:
        """What an operator wrote, but for the Lease."""
        found = requests(self.story.cluster, self.since, operator.account.user)
        return [r for r in found if r.is_write and not r.resource.startswith("leases")]


@pytest.fixture
def pair(operators: Operators, place: Story) -> Iterator[Pair]:
    if place.cluster.audit_log is None:
        pytest.skip("a given cluster has no audit log to tell two operators apart by")
    operators.rest()
    since = mark(place.cluster)
    other = install_account(operators.cluster, operators.kube, "second")
    try:
        leader = operators.another("operator-first").start_leading()
        standby = operators.another("operator-second", account=other).start()
        place.operator = leader
        eventually(standby.assert_ready, within_s=45)
        yield Pair(leader, standby, since, place)
    finally:
        operators.end_others()


def test_the_standby_is_ready_and_writes_nothing(place: Story, pair: Pair) -> None:
    place.node("l4", "3.40")
    place.apply(workload())
    place.ready("chat")
    assert pair.standby.ask("/healthz") == 200
    assert pair.acts(pair.leader), "the leader wrote nothing"
    assert pair.acts(pair.standby) == []
    with pytest.raises(AssertionError, match="does not lead"):
        pair.standby.assert_leading()


def test_when_the_leader_is_killed_the_other_takes_over_and_never_do_both_act(place: Story, pair: Pair) -> None:
    place.node("l4", "3.40")
    place.apply(workload("before"))
    place.ready("before")
    pair.leader.kill()
    place.apply(workload("after"))
    place.ready("after", within_s=40)
    last, first = max(r.at for r in pair.acts(pair.leader)), min(r.at for r in pair.acts(pair.standby))
    assert last < first, f"the old leader wrote at {last}, the new one at {first}"
    place.ready("before")
    pair.standby.assert_leading()


def test_a_leader_that_was_frozen_writes_nothing_when_it_wakes_and_ends(place: Story, pair: Pair) -> None:
    place.node("l4", "3.40")
    place.apply(workload("before"))
    place.ready("before")
    pair.leader.freeze()
    place.apply(workload("after"))
    place.ready("after", within_s=40)
    pair.standby.assert_leading()
    pair.leader.thaw()
    assert pair.leader.wait_for_end(within_s=20) == 1
    last, first = max(r.at for r in pair.acts(pair.leader)), min(r.at for r in pair.acts(pair.standby))
    assert last < first, f"the old leader wrote at {last}, the new one at {first}"


def test_a_leader_that_is_told_to_stop_hands_over_without_a_wait(place: Story, pair: Pair) -> None:
    assert pair.leader.stop() == 0
    eventually(pair.standby.assert_leading, within_s=5)  # sooner than the Lease's 6 s
    place.node("l4", "3.40")
    place.apply(workload())
    place.ready("chat")
    always(pair.standby.assert_leading, for_s=1)
