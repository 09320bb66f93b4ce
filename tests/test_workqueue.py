import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

import virtual_time
from metainf.errors import ArtifactError, HubError, InvalidWorkloadError
from metainf_operator.api_errors import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    InvalidObjectError,
    NamespaceTerminatingError,
    NotFoundError,
    NotLeaderError,
    UnreachableError,
)
from metainf_operator.metrics import Metrics
from metainf_operator.workers import FORBIDDEN_DELAY_S, FORBIDDEN_FIRST_S, Drop, Retry, Workers, verdict
from metainf_operator.workqueue import Backoff, Priority, QueueClosed, WorkQueue


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def queue_at(clock: Clock, **options: object) -> WorkQueue[str]:
    return WorkQueue(clock=clock, random_ratio=lambda: 0.0, **options)  # type: ignore[arg-type]


def drain(queue: WorkQueue[str]) -> list[str]:
    taken = []
    while (key := queue.take()) is not None:
        taken.append(key)
        queue.done(key)
    return taken


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def test_a_key_that_is_added_twice_is_taken_once() -> None:
    queue = queue_at(Clock())
    for key in ("a", "b", "a"):
        queue.add(key)
    assert len(queue) == 2
    assert drain(queue) == ["a", "b"]


def test_a_key_that_changes_while_a_worker_has_it_is_taken_again_and_not_before() -> None:
    queue = queue_at(Clock())
    queue.add("a")
    assert queue.take() == "a"
    queue.add("a")
    assert queue.take() is None
    assert not queue.idle
    queue.done("a")
    assert drain(queue) == ["a"]
    assert queue.idle


def test_a_change_goes_before_a_resync() -> None:
    queue = queue_at(Clock())
    for key in ("a", "b", "c"):
        queue.add(key, Priority.RESYNC)
    queue.add("c")
    queue.add("a", Priority.RESYNC)
    assert drain(queue) == ["c", "a", "b"]


def test_a_key_comes_after_its_delay_and_the_earliest_wish_counts() -> None:
    clock = Clock()
    queue = queue_at(clock)
    queue.add_after("a", 10)
    queue.add_after("a", 5)
    queue.add_after("a", 20)
    queue.add_after("b", 0)
    assert drain(queue) == ["b"]
    assert queue.next_due_in_s() == 5
    clock.now_s += 4.9
    assert queue.take() is None
    clock.now_s += 0.2
    assert drain(queue) == ["a"]
    clock.now_s += 100
    assert drain(queue) == []
    assert queue.waiting == 0


def test_each_failure_in_a_row_doubles_the_wait_up_to_five_minutes() -> None:
    queue = queue_at(Clock())
    delays = [queue.add_rate_limited("a") for _ in range(13)]
    assert delays[:4] == [0.2, 0.4, 0.8, 1.6]
    assert delays[-1] == 300.0
    assert queue.failures("a") == 13
    queue.forget("a")
    assert queue.add_rate_limited("a") == 0.2
    assert queue.add_rate_limited("b", at_least_s=30.0) == 30.0


@given(failures=st.integers(1, 10_000), drawn=st.floats(0, 1, exclude_max=True))
def test_a_back_off_stays_within_its_limit_and_jitter_only_shortens_it(failures: int, drawn: float) -> None:
    backoff = Backoff(first_s=0.2, limit_s=300.0, jitter_ratio=0.2)
    longest = backoff.delay_s(failures, 0.0)
    assert longest * 0.8 <= backoff.delay_s(failures, drawn) <= longest <= 300.0
    assert longest <= backoff.delay_s(failures + 1, 0.0)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 3), st.sampled_from(Priority)),
            st.tuples(st.just("later"), st.integers(0, 3), st.integers(1, 5)),
            st.tuples(st.just("take"), st.none(), st.none()),
            st.tuples(st.just("done"), st.integers(0, 3), st.none()),
            st.tuples(st.just("wait"), st.integers(1, 3), st.none()),
        )
    )
)
def test_no_key_is_with_two_workers_and_no_change_is_lost(steps: list[tuple[str, int, int]]) -> None:
    clock = Clock()
    queue: WorkQueue[int] = WorkQueue(clock=clock)
    working: list[int] = []
    owed: set[int] = set()  # changed since they were last taken
    for step, key, detail in steps:
        if step == "add":
            queue.add(key, Priority(detail))
            owed.add(key)
        elif step == "later":
            queue.add_after(key, detail)
            owed.add(key)
        elif step == "wait":
            clock.now_s += key
        elif step == "take" and (taken := queue.take()) is not None:
            assert taken not in working
            working.append(taken)
            owed.discard(taken)
        elif step == "done" and key in working:
            working.remove(key)
            queue.done(key)
    clock.now_s += 10
    for key in working:
        queue.done(key)
    rest = []
    while (taken := queue.take()) is not None:
        rest.append(taken)
        queue.done(taken)
    assert owed <= set(rest)
    assert queue.idle


def test_get_waits_for_a_key_and_for_its_time() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(clock=virtual_time.now_s)
        started_s = virtual_time.now_s()
        getting = asyncio.create_task(queue.get())
        await asyncio.sleep(1)
        queue.add_after("a", 60)
        queue.add_after("b", 30)
        assert await getting == "b"
        assert virtual_time.now_s() - started_s == pytest.approx(31)
        assert await queue.get() == "a"

    virtual_time.run(main())


def test_a_closed_queue_hands_out_what_is_ready_and_then_ends() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(clock=virtual_time.now_s)
        queue.add("a")
        queue.add_after("b", 5)
        queue.shut_down()
        queue.add("c")
        assert await queue.get() == "a"
        with pytest.raises(QueueClosed):
            await queue.get()

    virtual_time.run(main())


def test_tells_how_long_a_key_waited_for_a_worker() -> None:
    clock = Clock()
    waits: list[float] = []
    queue = queue_at(clock, observe_wait=waits.append)
    queue.add("a", Priority.RESYNC)
    clock.now_s += 2
    queue.add("a")
    clock.now_s += 1
    drain(queue)
    assert waits == [3.0]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(ConflictError("x"), Retry(logging.DEBUG), id="conflict -> again with back-off"),
        pytest.param(AlreadyExistsError("x"), Retry(logging.DEBUG), id="name taken meanwhile -> again"),
        pytest.param(NotFoundError("x"), Retry(logging.DEBUG), id="gone meanwhile -> look again"),
        pytest.param(UnreachableError("x"), Retry(logging.WARNING), id="unreachable -> again with back-off"),
        pytest.param(
            UnreachableError("x", retry_after_s=7.0), Retry(logging.WARNING, at_least_s=7.0), id="429 -> as it asked"
        ),
        pytest.param(HubError("x"), Retry(logging.WARNING), id="hub away -> again with back-off"),
        pytest.param(
            ForbiddenError("x"), Retry(logging.WARNING, at_least_s=FORBIDDEN_FIRST_S), id="forbidden -> step by step"
        ),
        pytest.param(
            NamespaceTerminatingError("x"),
            Retry(logging.WARNING, at_least_s=FORBIDDEN_DELAY_S),
            id="terminating namespace -> much later",
        ),
        pytest.param(NotLeaderError("x"), Drop(), id="not the leader -> dropped"),
        pytest.param(InvalidObjectError("x"), Retry(logging.ERROR, traceback=True), id="refused object -> a fault"),
        pytest.param(InvalidWorkloadError("x"), Retry(logging.ERROR, traceback=True), id="forgotten answer -> a fault"),
        pytest.param(ArtifactError("x"), Retry(logging.ERROR, traceback=True), id="artifact -> a fault"),
        pytest.param(KeyError("x"), Retry(logging.ERROR, traceback=True), id="anything else -> a fault"),
    ],
)
def test_each_error_has_its_line_in_the_table(error: Exception, expected: Retry | Drop) -> None:
    assert verdict(error) == expected


def test_one_failing_key_leaves_the_others_unharmed(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        metrics = Metrics()
        queue: WorkQueue[str] = WorkQueue(clock=virtual_time.now_s, random_ratio=lambda: 0.0)
        passes: list[tuple[str, float]] = []
        started_s = virtual_time.now_s()

        async def handler(key: str) -> float | None:
            passes.append((key, round(virtual_time.now_s() - started_s, 3)))
            if key == "bad":
                raise ZeroDivisionError("a fault")
            return 1.0 if len(passes) < 4 else None

        workers = Workers(queue, handler, metrics, virtual_time.now_s)
        queue.add("bad")
        queue.add("good")
        workers.start(2)
        await asyncio.sleep(1.1)
        assert workers.alive
        assert await workers.drain(5)
        assert passes == [("bad", 0.0), ("good", 0.0), ("bad", 0.2), ("bad", 0.6), ("good", 1.0)]
        assert value(metrics.registry, "metainf_reconcile_errors_total", error="ZeroDivisionError") == 3
        assert value(metrics.registry, "metainf_reconcile_duration_seconds_count") == 5

    with caplog.at_level(logging.DEBUG):
        virtual_time.run(main())
    assert {record.levelname for record in caplog.records if record.name.endswith("workers")} == {"ERROR"}
    assert "ZeroDivisionError" in caplog.text


def test_a_success_lets_the_next_failure_be_the_first() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(clock=virtual_time.now_s, random_ratio=lambda: 0.0)
        answers = iter([ConflictError("x"), ConflictError("x"), None])

        async def handler(key: str) -> float | None:
            answer = next(answers)
            if answer is not None:
                raise answer
            return None

        workers = Workers(queue, handler, Metrics(), virtual_time.now_s)
        workers.start(1)
        queue.add("a")
        await asyncio.sleep(0.3)
        assert queue.failures("a") == 2
        await asyncio.sleep(1)
        assert queue.failures("a") == 0
        await workers.drain(1)

    virtual_time.run(main())


@pytest.mark.parametrize(
    ("pass_s", "in_time"),
    [pytest.param(3, True, id="within the time"), pytest.param(30, False, id="beyond the time")],
)
def test_draining_waits_for_passes_under_way_and_starts_no_other(pass_s: float, in_time: bool) -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(clock=virtual_time.now_s)
        finished: list[str] = []

        async def handler(key: str) -> float | None:
            await asyncio.sleep(pass_s)
            finished.append(key)
            return None

        workers = Workers(queue, handler, Metrics(), virtual_time.now_s)
        workers.start(1)
        queue.add("a")
        queue.add("b")
        await asyncio.sleep(1)
        assert await workers.drain(10) is in_time
        assert finished == (["a"] if in_time else [])
        assert queue.processing == 0

    virtual_time.run(main())


def test_abandoning_cancels_what_is_under_way() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(clock=virtual_time.now_s)
        finished: list[str] = []

        async def handler(key: str) -> float | None:
            await asyncio.sleep(5)
            finished.append(key)
            return None

        workers = Workers(queue, handler, Metrics(), virtual_time.now_s)
        workers.start(2)
        queue.add("a")
        await asyncio.sleep(1)
        started_s = virtual_time.now_s()
        await workers.abandon()
        assert (finished, virtual_time.now_s()) == ([], started_s)

    virtual_time.run(main())
