"""Passes over a workload whose engines are watched: what the status says, when it is written, and what is decided."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from controller_passes import Around, planned, serving, with_pools, workload
from engine_counts import counts, exposition
from metainf_operator.engine_metrics import EngineCounts
from metainf_operator.observations import together
from metainf_operator.reconcile import Hold
from metainf_operator.resources import DEPLOYMENT, INFERENCE_DECISION, POD
from metainf_operator.scraping import ScrapeError, ScrapeFault

SLO = {"ttft": {"p95": "500ms"}}
KEPT, MISSED, BETWEEN = 0.2, 0.9, 0.4  # seconds to the first token, by the buckets of `engine_counts`


class Watched:
    """A workload that serves, and clients that send it requests; each step is a round and the passes it asks for."""

    def __init__(self, around: Around) -> None:
        self.around = around
        self.said: dict[str, EngineCounts] = {}

    def step(self, requests: int = 0, *, passes: bool = True, **each: Any) -> set[str]:
        """So many requests to each pod, each as told, since the round before."""
        for address in self.around.addresses():
            self.said[address] = _more(self.said.get(address, counts(0)), requests, each)
            self.around.engines[address] = exposition(self.said[address])
        looked = self.around.observe()
        if passes:
            for name in looked:
                self.around.reconcile(name)
        return looked

    def steps(self, count: int, requests: int = 0, **each: Any) -> None:
        for _ in range(count):
            self.step(requests, **each)

    def silence(self, fault: ScrapeFault = ScrapeFault.TIMED_OUT, steps: int = 1) -> None:
        for _ in range(steps):
            for address in self.around.addresses():
                self.around.engines[address] = ScrapeError(fault, "told by a test")
            for name in self.around.observe():
                self.around.reconcile(name)

    @property
    def observed(self) -> dict[str, Any]:
        return dict(self.around.status().get("observed") or {})

    @property
    def recorded(self) -> dict[str, Any]:
        name = self.around.status()["decisionRef"]["name"]
        body = self.around.cluster.peek(INFERENCE_DECISION, name, "team")
        assert body is not None
        return dict(body["status"].get("observed") or {})


def _more(before: EngineCounts, requests: int, each: dict[str, Any]) -> EngineCounts:
    return replace(together([before, counts(requests, **each)]), started_s=before.started_s)


def watched(**spec: Any) -> Watched:
    return Watched(serving(**{"slo": SLO, **spec}))


def unpromised(**spec: Any) -> Watched:
    """Without promises one replica of the cheap pool carries 4 requests a second."""
    return Watched(serving(**spec))


# SLOMet


@pytest.mark.parametrize(
    ("slo", "ttft_s", "requests", "condition", "ready"),
    [
        pytest.param(SLO, KEPT, 30, ("True", "WithinSLO"), ("True", "Serving"), id="kept"),
        pytest.param(SLO, MISSED, 30, ("False", "SLOMissed"), ("False", "SLOMissed"), id="missed"),
        pytest.param(
            {"ttft": {"p95": "400ms"}}, BETWEEN, 30, ("Unknown", "TooCloseToTell"), ("True", "Serving"), id="too close"
        ),
        pytest.param(SLO, MISSED, 2, ("Unknown", "NoTraffic"), ("True", "Serving"), id="too few requests"),
        pytest.param(SLO, KEPT, 0, ("Unknown", "NoTraffic"), ("True", "Serving"), id="no traffic"),
        pytest.param(
            {"ttft": {"p95": "500ms", "p99": "500ms"}},
            KEPT,
            15,
            ("Unknown", "NoTraffic"),
            ("True", "Serving"),
            id="enough for one promise and not for the other",
        ),
        pytest.param(
            {"ttft": {"p95": "500ms", "p99": "600ms"}},
            MISSED,
            15,
            ("False", "SLOMissed"),
            ("False", "SLOMissed"),
            id="one missed is missed, whatever is not known of the other",
        ),
        pytest.param(None, MISSED, 30, ("Unknown", "NoSLO"), ("True", "Serving"), id="nothing promised"),
    ],
)
def test_promises_are_kept_missed_or_not_known(
    slo: dict[str, Any] | None, ttft_s: float, requests: int, condition: tuple[str, str], ready: tuple[str, str]
) -> None:
    story = Watched(serving(**({} if slo is None else {"slo": slo})))
    story.steps(4, requests, ttft_s=ttft_s)
    assert story.around.condition("SLOMet") == condition
    assert story.around.condition("Ready") == ready


def test_a_message_has_the_two_figures_that_disagree() -> None:
    story = watched()
    story.steps(4, 30, ttft_s=MISSED)
    assert story.around.message("SLOMet") == "ttft p95 is 975ms; the SLO allows 500ms"
    story.steps(15, 30, ttft_s=KEPT)
    assert story.around.message("SLOMet") == "ttft p95 is 242ms of 500ms"
    assert story.observed["ttft"] == "p95 242ms"


def test_a_promise_that_is_missed_and_kept_again_is_told_by_events_once_each() -> None:
    story = watched()
    story.steps(6, 30, ttft_s=MISSED)
    story.steps(15, 30, ttft_s=KEPT)
    events = story.around.events()
    assert (events.count("SLOMissed"), events.count("SLOMet")) == (1, 1)


def test_one_odd_round_turns_nothing_over() -> None:
    """The window is one round long here, so that each round has a p95 of its own."""
    around = serving(slo=SLO)
    story = Watched(around)
    story.around.observer._window_s = 30.0
    story.steps(3, 30, ttft_s=KEPT)
    for _ in range(4):
        story.step(30, ttft_s=MISSED)
        story.step(30, ttft_s=KEPT)
    assert story.around.condition("SLOMet") == ("True", "WithinSLO")
    assert "SLOMissed" not in around.events()
    story.steps(2, 30, ttft_s=MISSED)
    assert story.around.condition("SLOMet") == ("False", "SLOMissed")


# the status and the record


def test_observed_stands_beside_predicted_in_the_status_and_in_the_decision() -> None:
    story = watched()
    story.steps(4, 30, hits=0.5)
    shown = story.observed
    assert shown["ttft"] == "p95 242ms"
    assert shown["throughput"] == "100 tok/s"
    assert (shown["requestsPerSecond"], shown["prefixHitRatio"]) == ("1", "0.50")
    assert shown["costPerMillionTokens"] == "2.7778 USD"  # 1 USD an hour for 360,000 tokens
    assert (shown["pods"], shown["requests"]) == (1, 60)
    assert story.around.status()["predicted"]["ttft"] == "p95 500ms"
    recorded = story.recorded
    assert (recorded["ttft"]["p95"], recorded["outputTokensPerSecond"]) == ("0.2425", "100")
    assert (recorded["requests"], recorded["prefixHitRatio"]) == (60, "0.5")


def test_steady_traffic_writes_nothing() -> None:
    story = watched()
    story.steps(20, 30)
    before = len(story.around.cluster.writes)
    for _ in range(60):
        assert story.step(30) == set()
    story.around.resync()
    assert len(story.around.cluster.writes) == before


def test_traffic_that_drifts_is_written_every_five_minutes_at_most() -> None:
    story = watched()
    story.steps(6, 30)
    before = len(story.around.cluster.writes)
    for i in range(40):
        story.step(30 + 3 * i)
    writes = len(story.around.cluster.writes) - before
    assert 6 <= writes <= 2 * 4 + 2  # 20 minutes: the status and the record, four or five times


def test_when_traffic_ends_the_status_forgets_it_and_the_record_does_not() -> None:
    story = watched()
    story.steps(4, 30)
    story.steps(14)
    assert story.around.condition("SLOMet") == ("Unknown", "NoTraffic")
    assert set(story.observed) == {"pods", "time"}
    assert story.recorded["ttft"]["p95"] == "0.2425"


def test_a_new_leader_writes_nothing_that_was_written() -> None:
    story = watched()
    story.steps(6, 30)
    status, before = story.around.status(), len(story.around.cluster.writes)
    story.around.restart()
    story.around.reconcile()
    story.steps(12, 30)
    assert story.around.status() == status
    # Its children it applies once, since it does not know what the one before applied.
    assert {call.resource for call in story.around.cluster.writes[before:]} == {DEPLOYMENT}


def test_what_is_suspended_is_not_observed() -> None:
    story = watched()
    story.steps(4, 30)
    story.around.edit(suspend=True)
    story.around.settle()
    assert "observed" not in story.around.status()
    assert story.around.condition("SLOMet") == ("Unknown", "NoTraffic")


def unwatched(story: Watched) -> Around:
    """The operator starts again, set to read no metrics any more."""
    around = story.around
    around.settings = replace(around.settings, observe_interval_s=0.0)
    around.restart()
    around.reconcile()
    return around


def test_an_operator_that_watches_nothing_says_so_and_leaves_no_old_figures() -> None:
    story = watched()
    story.steps(4, 30, ttft_s=MISSED)
    assert story.around.condition("Ready") == ("False", "SLOMissed")
    around = unwatched(story)
    assert "observed" not in around.status()
    assert around.condition("SLOMet") == ("Unknown", "NotWatched")
    assert "--observe-interval-s (METAINF_OBSERVE_INTERVAL_S)" in around.message("SLOMet")
    assert around.condition("Ready") == ("True", "Serving")
    before = len(around.cluster.writes)
    around.settle()
    assert around.cluster.writes[before:] == []


def test_unwatched_and_without_promises_nothing_is_missed_in_the_condition() -> None:
    around = unwatched(unpromised())
    assert around.condition("SLOMet") == ("Unknown", "NoSLO")


def test_the_record_keeps_what_was_seen_when_another_decision_takes_over() -> None:
    story = watched()
    story.steps(4, 30)
    name = story.around.status()["decisionRef"]["name"]
    story.around.edit(placement={"pools": ["fast"]})
    story.around.settle()
    assert story.around.status()["decisionRef"]["name"] != name
    body = story.around.cluster.peek(INFERENCE_DECISION, name, "team")
    assert body is not None
    assert body["status"]["phase"] == "Superseded"
    assert body["status"]["observed"]["requests"] == 60


def test_another_decision_for_the_same_pods_has_what_was_seen_too() -> None:
    story = watched()
    story.steps(4, 30)
    story.around.edit(scaling={"minReplicas": 2})
    story.around.settle()
    assert story.around.running() == {"cheap": 2}
    assert story.recorded["requests"] == 90


def test_what_is_promised_anew_is_judged_at_once() -> None:
    story = watched()
    story.steps(4, 30, tpot_s=0.3)
    assert story.around.condition("SLOMet") == ("True", "WithinSLO")
    story.around.edit(slo={"tpot": {"p95": "60ms"}})  # predicted are 50ms
    story.around.reconcile()
    assert story.around.condition("SLOMet") == ("False", "SLOMissed")
    assert story.around.message("SLOMet") == "tpot p95 is 487ms; the SLO allows 60ms"


def test_a_batch_has_both_its_cost_and_what_was_seen() -> None:
    traffic = {
        "batch": {"requests": 100000, "deadline": "24h"},
        "inputTokens": {"mean": 500},
        "outputTokens": {"mean": 100},
    }
    around = with_pools(Around())
    body = workload(traffic=traffic)
    body["spec"]["budget"] = {"total": "1000"}
    around.apply(body)
    around.settle()
    story = Watched(around)
    story.steps(8, 30)
    assert story.observed["throughput"].endswith("tok/s")
    first = story.observed["accruedCost"]
    around.now += timedelta(hours=1)
    around.reconcile()
    assert float(story.observed["accruedCost"].split()[0]) > float(first.split()[0])
    assert story.observed["throughput"].endswith("tok/s")
    second = story.observed["accruedCost"]
    unwatched(story)
    assert story.observed.keys() == {"accruedCost", "accruedAt"}
    assert float(story.observed["accruedCost"].split()[0]) >= float(second.split()[0])


def test_metrics_show_what_was_seen_and_how_far_it_is_from_the_prediction() -> None:
    story = watched()
    story.steps(4, 30, ttft_s=MISSED)
    registry = story.around.metrics.registry
    labels = {"namespace": "team", "name": "chat"}
    assert registry.get_sample_value("metainf_observed_ttft_p95_seconds", labels) == pytest.approx(0.975)
    # 0.975 s of 0.5 predicted is 0.95 more.
    assert registry.get_sample_value("metainf_prediction_error_ratio_bucket", {"le": "1.0"}) == 1
    assert registry.get_sample_value("metainf_prediction_error_ratio_bucket", {"le": "0.5"}) == 0
    story.steps(14)
    assert registry.get_sample_value("metainf_observed_ttft_p95_seconds", labels) is None


def test_metrics_show_whether_the_promises_are_kept() -> None:
    story = watched()
    assert story.around.shown()["SLOMet"] == "Unknown"
    story.steps(4, 30, ttft_s=MISSED)
    assert story.around.shown() == {"Ready": "False", "Feasible": "True", "WithinBudget": "True", "SLOMet": "False"}
    story.steps(15, 30, ttft_s=KEPT)
    assert story.around.shown() == {"Ready": "True", "Feasible": "True", "WithinBudget": "True", "SLOMet": "True"}


# what cannot be read


def test_a_pod_that_cannot_be_read_is_said_so_once() -> None:
    story = watched()
    story.silence(steps=1)
    assert "unreadablePods" not in story.observed
    story.silence(steps=3)
    assert story.observed["unreadablePods"] == 1
    assert story.around.condition("SLOMet") == ("Unknown", "MetricsUnreadable")
    assert "timed out" in story.around.message("SLOMet")
    assert story.around.condition("Ready") == ("True", "Serving")
    before = len(story.around.cluster.writes)
    story.silence(ScrapeFault.UNREACHABLE, steps=30)
    assert len(story.around.cluster.writes) == before
    assert story.around.events().count("MetricsUnreadable") == 1
    counted = story.around.metrics.registry.get_sample_value("metainf_scrape_failures_total", {"reason": "timed out"})
    assert counted
    assert counted >= 2


def test_it_is_asked_less_and_less_often_and_believed_at_once_when_it_answers() -> None:
    story = watched()
    story.silence(steps=20)  # ten minutes
    asked = sum(
        story.around.metrics.registry.get_sample_value("metainf_scrape_failures_total", {"reason": each.value}) or 0
        for each in ScrapeFault
    )
    assert asked <= 7
    story.steps(14, 30)
    assert "unreadablePods" not in story.observed
    assert story.around.condition("SLOMet") == ("True", "WithinSLO")


def test_pods_of_others_and_pods_that_are_not_ready_are_left_alone() -> None:
    story = watched()
    (address,) = story.around.addresses()
    story.around.engines["10.9.9.9"] = exposition(counts(9))
    body = next(p for p in story.around.cluster.all(POD, "team"))
    stranger = {
        **body,
        "metadata": {"name": "stranger", "namespace": "team", "labels": body["metadata"]["labels"]},
        "status": {**body["status"], "podIP": "10.9.9.9"},
    }
    story.around.cluster.put(POD, stranger)
    story.steps(4, 30)
    assert story.observed["pods"] == 1
    story.around.cluster.edit(
        POD, body["metadata"]["name"], {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}, "team"
    )
    story.step()
    assert story.observed["pods"] == 0
    assert address


# policy.traffic


OBSERVED = {"traffic": "Observed", "cooldown": "0s"}


def test_declared_traffic_is_decided_by_unless_the_policy_says_otherwise() -> None:
    story = unpromised(rps="2")
    story.steps(14, 180)  # six requests a second: more than the cheap pool's 4 for each replica
    assert story.around.running() == {"cheap": 1}


def test_more_traffic_than_declared_makes_it_grow_and_less_makes_it_shrink() -> None:
    story = unpromised(rps="2", policy=OBSERVED)
    story.steps(11, 180)
    story.around.settle()
    assert story.around.running() == {"cheap": 2}
    record = story.around.cluster.peek(INFERENCE_DECISION, story.around.status()["decisionRef"]["name"], "team")
    assert record is not None
    inputs = record["spec"]["inputs"]
    assert inputs["traffic"]["requestsPerSecond"] == "6"
    assert inputs["observed"]["requests"] == 1620  # in nine tenths of the window
    story.steps(14, 15)  # to each of two pods
    story.around.settle()
    assert story.around.running() == {"cheap": 1}


def test_a_cooldown_holds_back_a_gain_by_observed_traffic_too() -> None:
    story = unpromised(rps="6", policy={"traffic": "Observed", "cooldown": "1h"})
    assert story.around.running() == {"cheap": 2}
    story.steps(14, 15)
    story.around.settle()
    assert story.around.running() == {"cheap": 2}
    assert "cooldown is not over yet" in story.around.message("Decided")
    story.around.now += timedelta(hours=1)
    story.around.resync()
    assert story.around.running() == {"cheap": 1}


def test_silence_and_a_new_leader_leave_the_traffic_that_was_decided_by() -> None:
    story = unpromised(rps="2", policy=OBSERVED)
    story.steps(11, 180)
    story.around.settle()
    story.steps(20)
    story.around.resync()
    story.around.restart()
    story.around.settle()
    story.around.resync()
    assert story.around.running() == {"cheap": 2}


def test_back_to_declared_is_back_to_what_was_declared() -> None:
    story = unpromised(rps="2", policy=OBSERVED)
    story.steps(11, 180)
    story.around.settle()
    story.around.edit(policy={"traffic": "Declared"})
    story.around.settle()
    assert story.around.running() == {"cheap": 1}


def test_unwatched_it_is_decided_by_what_is_declared_and_that_is_said() -> None:
    story = unpromised(rps="2", policy=OBSERVED)
    story.steps(11, 180)
    story.around.settle()
    assert story.around.running() == {"cheap": 2}
    assert "Observed" not in story.around.message("Accepted")
    around = unwatched(story)
    around.settle()
    assert around.running() == {"cheap": 1}
    assert around.condition("Accepted") == ("True", "Accepted")
    assert "decided by the declared traffic, not by policy.traffic Observed" in around.message("Accepted")


def test_traffic_that_wavers_is_not_followed() -> None:
    """A fifth up and down around six a second, for two hours: one move, and nothing after it."""
    story = unpromised(rps="2", policy=OBSERVED)
    story.steps(11, 180)
    story.around.settle()
    decisions = set(story.around.decisions())
    for i in range(240):
        story.step(90 + (18 if i % 24 < 12 else -18))
    assert story.around.running() == {"cheap": 2}
    assert set(story.around.decisions()) == decisions


def test_a_limit_that_only_observed_traffic_breaks_stops_nothing_and_that_is_said() -> None:
    story = unpromised(rps="2", budget="1", policy={**OBSERVED, "onViolation": "Stop"})
    story.steps(14, 180)  # six a second would take two replicas, of 2 USD an hour
    story.around.settle()
    assert story.around.running() == {"cheap": 1}
    assert story.around.condition("Feasible")[0] == "False"
    assert "only the observed traffic breaks a limit" in story.around.message("Decided")
    story.steps(14, 60)
    story.around.settle()
    assert story.around.running() == {"cheap": 1}
    assert story.around.condition("Ready") == ("True", "Serving")


def test_a_plan_asks_the_declared_traffic_too_before_it_stops_what_runs() -> None:
    story = unpromised(rps="2", policy={**OBSERVED, "onViolation": "Stop"})
    story.steps(11, 180)
    story.around.settle()
    assert story.around.running() == {"cheap": 2}
    story.around.edit(budget={"perHour": "1"})  # one replica, which carries the declared traffic alone
    found = planned(story.around)
    assert isinstance(found.choice, Hold)
    assert "only the observed traffic breaks a limit" in found.action
    assert not found.serves
    story.around.reconcile()
    assert story.around.running() == {"cheap": 2}
    assert found.choice.message in story.around.message("Decided")


def test_a_quiet_night_does_not_stop_what_is_paid_for_by_the_token() -> None:
    around = with_pools(Around())
    body = workload(rps="2", policy={**OBSERVED, "onViolation": "Stop"})
    body["spec"]["budget"] = {"perMillionTokens": "2"}  # 1.39 of it at the declared rate, 5.56 at night
    around.apply(body)
    around.settle()
    story = Watched(around)
    story.steps(14, 15)
    around.settle()
    assert around.running() == {"cheap": 1}
    assert "only the observed traffic breaks a limit" in around.message("Decided")


def test_what_was_stopped_is_decided_by_what_is_declared_and_starts_again() -> None:
    story = unpromised(rps="2", budget="1", policy={**OBSERVED, "onViolation": "Stop"})
    story.steps(14, 180)
    story.around.edit(budget={"perHour": "0.5"})  # now the declared traffic costs too much as well
    story.around.settle()
    assert story.around.running() == {"cheap": 0}
    story.steps(14)
    story.around.edit(budget={"perHour": "1"})
    story.around.settle()
    assert story.around.running() == {"cheap": 1}
    assert story.around.condition("Ready") == ("True", "Serving")
