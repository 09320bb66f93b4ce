import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Generator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import virtual_time
from fake_cluster import FakeCluster
from metainf_operator.api_errors import ClusterError, ForbiddenError, NotLeaderError, UnreachableError
from metainf_operator.cluster_api import Verb
from metainf_operator.cluster_decorator import ClusterDecorator
from metainf_operator.leader import GatedCluster, LeaderElection, LeaseTimes, uninterrupted_clock, unique_identity
from metainf_operator.resources import CONFIG_MAP, LEASE, Resource

T = TypeVar("T")

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
AWAY = UnreachableError("connection refused")


def candidate(cluster: Any, identity: str, clock: Callable[[], float] = virtual_time.now_s) -> LeaderElection:
    return LeaderElection(
        cluster,
        identity,
        "metainf",
        "metainf-system",
        clock=clock,
        jitter=lambda: 0.0,
        now=lambda: EPOCH + timedelta(seconds=clock()),
    )


class Candidacy:
    """A candidate whose election runs as a task, and when it started and lost."""

    def __init__(self, cluster: Any, identity: str) -> None:
        self.election = candidate(cluster, identity)
        self.began_s = virtual_time.now_s()
        self.started_s: float | None = None
        self.lost_s: float | None = None
        self.task = asyncio.create_task(self.election.run(self._started, self._lost))

    def _started(self) -> None:
        self.started_s = virtual_time.now_s() - self.began_s

    def _lost(self) -> None:
        self.lost_s = virtual_time.now_s() - self.began_s

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def spec(cluster: FakeCluster) -> dict[str, Any]:
    lease = cluster.peek(LEASE, "metainf", "metainf-system")
    assert lease is not None
    return lease["spec"]


def test_creates_the_lease_where_there_is_none_and_renews_it() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        first = Candidacy(cluster, "first")
        await asyncio.sleep(60)
        assert (first.started_s, first.lost_s) == (0, None)
        assert first.election.is_leader
        assert spec(cluster) == {
            "holderIdentity": "first",
            "leaseDurationSeconds": 15,
            "acquireTime": "2026-01-01T00:16:40.000000Z",
            "renewTime": "2026-01-01T00:17:38.000000Z",
            "leaseTransitions": 0,
        }
        renewals = [call for call in cluster.calls if call.verb is Verb.UPDATE]
        assert len(renewals) == pytest.approx(30, abs=1)
        await first.end()

    virtual_time.run(main())


def test_waits_while_another_renews_and_writes_nothing() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        first = Candidacy(cluster, "first")
        await asyncio.sleep(1)
        before = len(cluster.writes)
        second = Candidacy(cluster, "second")
        await asyncio.sleep(100)
        assert (second.started_s, second.election.is_leader, second.election.leader) == (None, False, "first")
        assert len(cluster.writes) - before == pytest.approx(50, abs=1)  # the leader's own
        await first.end()
        await second.end()

    virtual_time.run(main())


def test_takes_over_from_a_leader_that_died_only_after_the_leases_duration() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        first = Candidacy(cluster, "first")
        await asyncio.sleep(1)
        second = Candidacy(cluster, "second")
        await asyncio.sleep(9)
        await first.end()  # killed: nothing is released
        died_s = virtual_time.now_s()
        while not second.election.is_leader:
            await asyncio.sleep(0.1)
        assert 13 <= virtual_time.now_s() - died_s <= 18
        assert spec(cluster)["holderIdentity"] == "second"
        assert spec(cluster)["leaseTransitions"] == 1
        await second.end()

    virtual_time.run(main())


def test_a_released_lease_is_taken_without_the_wait() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        first = Candidacy(cluster, "first")
        await asyncio.sleep(1)
        second = Candidacy(cluster, "second")
        await asyncio.sleep(10)
        await first.end()
        await first.election.release()
        assert not first.election.is_leader
        assert spec(cluster)["holderIdentity"] == ""
        await asyncio.sleep(2.5)
        assert second.election.is_leader
        await first.election.release()  # again, and late: it must not take the lease from its new holder
        assert spec(cluster)["holderIdentity"] == "second"
        await second.end()

    virtual_time.run(main())


def test_releasing_into_a_broken_api_does_not_raise() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        first = Candidacy(cluster, "first")
        await asyncio.sleep(1)
        await first.end()
        cluster.fail(AWAY, times=10)
        await first.election.release()
        assert not first.election.is_leader

    virtual_time.run(main())


@pytest.mark.parametrize("error", [AWAY, ForbiddenError("no role yet")], ids=["refused connection", "no role"])
def test_goes_on_asking_while_the_api_is_away_at_the_start(error: ClusterError) -> None:
    async def main() -> None:
        cluster = FakeCluster()
        cluster.fail(error, times=10)
        first = Candidacy(cluster, "first")
        await asyncio.sleep(25)
        assert first.started_s == pytest.approx(20)
        await first.end()

    virtual_time.run(main())


def test_stays_leader_through_an_outage_shorter_than_the_deadline() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        first = Candidacy(cluster, "first")
        await asyncio.sleep(4.5)
        cluster.fail(AWAY, times=3)  # the renewals at 6, 8 and 10 s
        for _ in range(100):
            await asyncio.sleep(0.1)
            assert first.election.is_leader
        assert first.lost_s is None
        await first.end()

    virtual_time.run(main())


def test_stops_writing_at_the_deadline_of_a_longer_outage_and_ends() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        first = Candidacy(cluster, "first")
        gated = GatedCluster(cluster, first.election.guard)
        await asyncio.sleep(4.5)  # renewed last at 4 s
        cluster.fail(AWAY, times=1000, resource=LEASE)
        await asyncio.sleep(9)
        config_map = {"metadata": {"name": "c", "namespace": "a"}}
        await gated.create(CONFIG_MAP, config_map)
        await asyncio.sleep(0.6)  # 14.1 s
        assert not first.election.is_leader
        with pytest.raises(NotLeaderError, match="writing as first"):
            await gated.delete(CONFIG_MAP, "c", "a")
        assert await gated.get(CONFIG_MAP, "c", "a")
        await asyncio.sleep(2)
        assert first.task.done()
        assert first.lost_s == pytest.approx(14, abs=0.1)

    virtual_time.run(main())


class HangingCluster(ClusterDecorator):
    """Answers nothing from `hangs` on, as behind a firewall that drops packets."""

    hangs = False

    async def _around(self, verb: Verb, resource: Resource | None, call: Callable[[], Awaitable[T]]) -> T:
        if self.hangs:
            await asyncio.sleep(1e6)
        return await call()


def test_is_no_leader_past_the_deadline_while_a_renewal_hangs() -> None:
    async def main() -> None:
        cluster = HangingCluster(FakeCluster())
        first = Candidacy(cluster, "first")
        await asyncio.sleep(0.5)
        cluster.hangs = True
        await asyncio.sleep(9.4)
        assert first.election.is_leader
        await asyncio.sleep(0.2)
        assert not first.election.is_leader
        await asyncio.sleep(2)
        assert first.lost_s is not None

    virtual_time.run(main())


def test_one_hanging_renewal_leaves_time_for_another() -> None:
    async def main() -> None:
        cluster = HangingCluster(FakeCluster())
        first = Candidacy(cluster, "first")
        await asyncio.sleep(1.9)
        cluster.hangs = True
        await asyncio.sleep(1)
        cluster.hangs = False
        await asyncio.sleep(30)
        assert first.election.is_leader
        assert first.lost_s is None
        await first.end()

    virtual_time.run(main())


def test_gives_way_at_once_where_the_record_names_another() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        first = Candidacy(cluster, "first")
        await asyncio.sleep(1)
        cluster.edit(LEASE, "metainf", {"spec": {"holderIdentity": "usurper"}}, "metainf-system")
        await asyncio.sleep(1.5)
        assert first.lost_s == pytest.approx(2)
        assert spec(cluster)["holderIdentity"] == "usurper"

    virtual_time.run(main())


def test_the_holders_own_longer_duration_is_kept() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        holder = {"holderIdentity": "old", "leaseDurationSeconds": 60, "renewTime": "1999-01-01T00:00:00.000000Z"}
        cluster.put(LEASE, {"metadata": {"name": "metainf", "namespace": "metainf-system"}, "spec": holder})
        first = Candidacy(cluster, "first")
        await asyncio.sleep(70)
        assert first.started_s == pytest.approx(60, abs=2.1)
        await first.end()

    virtual_time.run(main())


def test_an_empty_or_odd_record_is_taken_at_once() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        cluster.put(LEASE, {"metadata": {"name": "metainf", "namespace": "metainf-system"}})
        first = Candidacy(cluster, "first")
        await asyncio.sleep(0.1)
        assert first.started_s == 0
        await first.end()

    virtual_time.run(main())


def test_nobody_leads_before_the_first_answer() -> None:
    election = candidate(FakeCluster(), "first", clock=lambda: 0.0)
    assert not election.is_leader
    with pytest.raises(NotLeaderError, match="held by nobody"):
        election.guard()


@pytest.mark.parametrize(
    ("duration_s", "deadline_s", "retry_s"),
    [(10, 10, 2), (15, 10, 10), (15, 10, 0), (5, 10, 2), (15, 10, -1)],
)
def test_refuses_times_with_which_two_could_lead(duration_s: float, deadline_s: float, retry_s: float) -> None:
    with pytest.raises(ValueError, match="shorter than"):
        LeaseTimes(duration_s, deadline_s, retry_s)


def test_identities_of_one_host_differ_and_the_clock_goes_forward() -> None:
    assert unique_identity("pod-0") != unique_identity("pod-0")
    assert unique_identity("pod-0").startswith("pod-0_")
    assert uninterrupted_clock() <= uninterrupted_clock()


# Two candidates whose requests and answers are delayed at will


class Pause:
    def __await__(self) -> Generator[None, None, None]:
        yield


class DelayedCluster(ClusterDecorator):
    """Each request stops on its way there and back; an answer may get lost after its effect."""

    lose_answer = False

    async def _around(self, verb: Verb, resource: Resource | None, call: Callable[[], Awaitable[T]]) -> T:
        await Pause()
        answer = await call()
        await Pause()
        if self.lose_answer:
            self.lose_answer = False
            raise AWAY
        return answer


async def asks_for_ever(election: LeaderElection) -> None:
    while True:
        with contextlib.suppress(ClusterError):
            await election.step()
        await Pause()


async def steps_down_and_asks_again(election: LeaderElection) -> None:
    with contextlib.suppress(ClusterError):
        await election.step_down()
    await asks_for_ever(election)


WHOLE_STEP = 5
"""Pauses of a look and a write with the one after them: so often a candidate is woken for all of it."""

steps = st.one_of(
    st.tuples(st.just("go"), st.integers(0, 2), st.sampled_from([1, 2, WHOLE_STEP, WHOLE_STEP])),
    st.tuples(st.just("go"), st.integers(0, 1), st.sampled_from([1, 3, WHOLE_STEP, WHOLE_STEP])),
    st.tuples(st.just("wait"), st.just(0), st.sampled_from([1.0, 5.0, 9.0, 10.0, 15.0])),
    st.tuples(st.sampled_from(["lose", "release"]), st.integers(0, 2), st.just(1)),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(steps, max_size=60))
def test_two_candidates_never_both_lead(schedule: list[tuple[str, int, float]]) -> None:
    time_s = 0.0
    server = FakeCluster()
    clusters = [DelayedCluster(server) for _ in range(3)]
    clocks = [lambda offset_s=offset_s: time_s + offset_s for offset_s in (0.0, 5e4, 7.0)]
    elections = [candidate(clusters[i], f"candidate-{i}", clocks[i]) for i in range(3)]
    running = [asks_for_ever(election) for election in elections]
    for action, who, amount in schedule:
        if action == "wait":
            time_s += amount
        elif action == "lose":
            clusters[who].lose_answer = True
        elif action == "go":
            for _ in range(int(amount)):
                running[who].send(None)
                assert sum(election.is_leader for election in elections) <= 1
        elif elections[who].is_leader:  # as on SIGTERM: first the loop is cancelled, wherever it is
            running[who].close()
            running[who] = steps_down_and_asks_again(elections[who])
        assert sum(election.is_leader for election in elections) <= 1
    for coroutine in running:
        coroutine.close()
