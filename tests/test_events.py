import asyncio
import logging
import re
from datetime import UTC, datetime, timedelta

import pytest

from fake_cluster import FakeCluster
from metainf_operator.api_errors import ForbiddenError, NotLeaderError
from metainf_operator.events import EventReason, EventSender, Notice, Regarding, manifest
from metainf_operator.resources import ACCELERATOR_POOL, EVENT, INFERENCE_WORKLOAD

AT = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
CHAT = Regarding(INFERENCE_WORKLOAD, "chat", "team-a", "uid-1", "77")


def test_an_event_holds_what_the_api_asks_for() -> None:
    event = manifest(Notice(EventReason.REFUSED, "the budget is 6.00 USD/h"), CHAT, AT, "pod-0_ab")
    name = event["metadata"].pop("name")
    assert re.fullmatch(r"chat\.[0-9a-f]{16}", name)
    assert event == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": "team-a"},
        "eventTime": "2026-01-01T12:00:00.123456Z",
        "type": "Warning",
        "reason": "Refused",
        "action": "Select",
        "note": "the budget is 6.00 USD/h",
        "regarding": {
            "apiVersion": "metainf.dev/v1alpha1",
            "kind": "InferenceWorkload",
            "name": "chat",
            "namespace": "team-a",
            "uid": "uid-1",
            "resourceVersion": "77",
        },
        "reportingController": "metainf.dev/operator",
        "reportingInstance": "pod-0_ab",
    }


def test_events_of_cluster_scoped_objects_stand_in_default() -> None:
    event = manifest(Notice(EventReason.PRICES_UNKNOWN, "x"), Regarding(ACCELERATOR_POOL, "a100", None, "u"), AT, "i")
    assert event["metadata"]["namespace"] == "default"
    assert "namespace" not in event["regarding"]
    assert "resourceVersion" not in event["regarding"]


def test_an_events_name_is_the_same_for_the_same_event_alone() -> None:
    def name(note: str = "x", seconds: int = 0, reason: EventReason = EventReason.DECIDED) -> str:
        return manifest(Notice(reason, note), CHAT, AT + timedelta(seconds=seconds), "i")["metadata"]["name"]

    assert name() == name()
    assert len({name(), name("y"), name(seconds=1), name(reason=EventReason.REFUSED)}) == 4


@pytest.mark.parametrize("note", ["é" * 2000, "a" + "é" * 2000, "x" * 1025, "€" * 400], ids=["é", "odd", "ascii", "€"])
def test_a_long_note_is_cut_to_the_apis_bytes_between_characters(note: str) -> None:
    cut = manifest(Notice(EventReason.DECIDED, note), CHAT, AT, "i")["note"]
    assert 1020 <= len(cut.encode()) <= 1024
    assert cut.endswith("…")
    assert note.startswith(cut[:-1])


def test_a_note_of_the_limit_stays_whole() -> None:
    assert manifest(Notice(EventReason.DECIDED, "x" * 1024), CHAT, AT, "i")["note"] == "x" * 1024


def test_names_and_instances_stay_within_the_apis_limits() -> None:
    long = Regarding(INFERENCE_WORKLOAD, "c" * 253, "a", "u")
    event = manifest(Notice(EventReason.DECIDED, "x"), long, AT, "i" * 200)
    assert len(event["metadata"]["name"]) == 253
    assert len(event["reportingInstance"]) == 128


def test_the_catalogue_is_fit_for_alerts_and_documentation() -> None:
    texts = [reason.text for reason in EventReason]
    assert len(set(texts)) == len(texts)
    for reason in EventReason:
        assert re.fullmatch(r"[A-Z][A-Za-z]{2,60}", reason.text)
        assert re.fullmatch(r"[A-Z][a-z]+", reason.action)
        assert reason.type in ("Normal", "Warning")
        assert reason.shows.startswith("shows when ")


def test_the_sender_creates_the_event() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        sender = EventSender(cluster.create, "i", lambda: AT)
        assert await sender.send(Notice(EventReason.DECIDED, "x"), CHAT)
        (event,) = cluster.all(EVENT)
        assert (event["reason"], event["metadata"]["namespace"]) == ("Decided", "team-a")

    asyncio.run(main())


def test_an_event_that_cannot_be_sent_fails_no_pass(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        cluster = FakeCluster()
        cluster.fail(ForbiddenError("creating Event chat: no role"))
        sender = EventSender(cluster.create, "i", lambda: AT)
        assert not await sender.send(Notice(EventReason.DECIDED, "a note with details"), CHAT)
        assert cluster.all(EVENT) == []

    with caplog.at_level(logging.DEBUG):
        asyncio.run(main())
    assert [record.levelname for record in caplog.records if "event" in record.message] == ["WARNING"]


def test_a_replica_that_lost_the_lease_is_told_so_by_events_too() -> None:
    async def main() -> None:
        cluster = FakeCluster()
        cluster.fail(NotLeaderError("writing as i"))
        with pytest.raises(NotLeaderError):
            await EventSender(cluster.create, "i").send(Notice(EventReason.DECIDED, "x"), CHAT)

    asyncio.run(main())
