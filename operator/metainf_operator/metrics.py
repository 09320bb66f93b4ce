"""What the operator counts and times, under one registry of its own.

Separate so that every name stands on one page, as dashboards need it. Cardinality is kept low on purpose: labels are
namespace and name of a workload, type and status of its conditions, never a candidate, a node, a reason or a message.
"""

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["CONTENT_TYPE", "SHOWN_CONDITIONS", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST

SHOWN_CONDITIONS = ("Ready", "Feasible", "WithinBudget", "SLOMet")
"""The conditions that have series: the roll-up, and what a person is to be told of by its own name, which are a
refusal, an overrun of the budget and a broken SLO. The others hold `Ready` back, or have a metric of their own.

Of each there is the status that holds, and not two zeros beside it: 4 series a workload instead of 12, which a process
that is to watch 1,000 workloads in 256 MiB keeps in memory and renders on its event loop. A rule asks for the status
that it means, `{status="False"} == 1`, which reads the same either way.
"""

_WORKLOAD = ("namespace", "name")
_STATUSES = ("True", "False", "Unknown")
_CALL_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PASS_BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ERROR_BUCKETS_RATIO = (-0.75, -0.5, -0.25, -0.1, -0.05, 0.0, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)


class Metrics:
    """Every metric of the operator; tests make one each, the process makes one."""

    def __init__(self) -> None:
        without_created: Any = disable_created_metrics
        without_created()  # a second series per counter that nobody plots
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.reconcile_duration = Histogram(
            "metainf_reconcile_duration_seconds",
            "Time of one pass over one key.",
            registry=registry,
            buckets=_PASS_BUCKETS_S,
        )
        self.reconcile_errors = Counter(
            "metainf_reconcile_errors",
            "Passes that ended in an error, by its class.",
            ("error",),
            registry=registry,
        )
        self._selection(registry)
        self._workloads(registry)
        self._shell(registry)

    def _selection(self, registry: CollectorRegistry) -> None:
        self.selections = Counter(
            "metainf_selections",
            "Selections, by outcome: selected, refused or kept.",
            ("outcome",),
            registry=registry,
        )
        self.selection_duration = Histogram(
            "metainf_selection_duration_seconds",
            "Time from the enumeration of candidates to the choice.",
            registry=registry,
            buckets=_PASS_BUCKETS_S,
        )
        self.candidates = Gauge(
            "metainf_candidates",
            "Candidates of the latest selection, by outcome: feasible or rejected.",
            ("outcome",),
            registry=registry,
        )
        self.prediction_error = Histogram(
            "metainf_prediction_error_ratio",
            "Observed TTFT p95 over predicted, less one, each time the status tells it; above zero it was too good.",
            registry=registry,
            buckets=_ERROR_BUCKETS_RATIO,
        )
        self.predictor_info = Gauge(
            "metainf_predictor_info",
            "The predictor in use, by the version of the features that it reads and its digest; always 1.",
            ("schema", "digest"),
            registry=registry,
        )

        self.predictor_fallback = Gauge(
            "metainf_predictor_fallback",
            "1 while the analytical predictor stands in for a trained one whose file cannot be used.",
            registry=registry,
        )

    def _workloads(self, registry: CollectorRegistry) -> None:
        self.workload_cost = Gauge(
            "metainf_workload_cost_usd_per_hour",
            "What the running replicas of a workload cost; absent where its currency is not USD.",
            _WORKLOAD,
            registry=registry,
        )
        self.predicted_ttft_p95 = Gauge(
            "metainf_predicted_ttft_p95_seconds",
            "Time to first token, p95, as predicted for what runs.",
            _WORKLOAD,
            registry=registry,
        )
        self.observed_ttft_p95 = Gauge(
            "metainf_observed_ttft_p95_seconds",
            "Time to first token, p95, as vLLM reports it over the last minutes; absent without enough requests.",
            _WORKLOAD,
            registry=registry,
        )
        self.workload_condition = Gauge(
            "metainf_workload_condition",
            "1 for the status that a condition of a workload has; the other statuses are absent.",
            (*_WORKLOAD, "type", "status"),
            registry=registry,
        )
        self.scrape_failures = Counter(
            "metainf_scrape_failures",
            "Readings of an engine's metrics that failed, by why.",
            ("reason",),
            registry=registry,
        )

    def _shell(self, registry: CollectorRegistry) -> None:
        self.api_requests = Histogram(
            "metainf_api_requests_seconds",
            "Time of a request to the API server.",
            ("verb", "resource"),
            registry=registry,
            buckets=_CALL_BUCKETS_S,
        )
        self.api_errors = Counter(
            "metainf_api_errors",
            "Requests to the API server that failed, by the error's class.",
            ("verb", "error"),
            registry=registry,
        )
        self.queue_length = Gauge("metainf_queue_length", "Keys that wait for a worker.", registry=registry)
        self.queue_wait = Histogram(
            "metainf_queue_wait_seconds",
            "Time from a key's turn to a worker taking it.",
            registry=registry,
            buckets=_PASS_BUCKETS_S,
        )
        self.cached_objects = Gauge(
            "metainf_cached_objects", "Objects that the operator knows of, by kind.", ("kind",), registry=registry
        )
        self.usable_nodes = Gauge(
            "metainf_usable_nodes",
            "Nodes that count as capacity: Ready, not cordoned, not going away.",
            registry=registry,
        )
        self.leader = Gauge("metainf_leader", "1 while this replica holds the Lease.", registry=registry)

    def use_predictor(self, schema: int, digest: str) -> None:
        """Say which predictor is in use, and no longer which was; `schema` is the version of the features it reads."""
        self.predictor_info.clear()
        self.predictor_info.labels(schema=str(schema), digest=digest).set(1)

    def set_conditions(self, namespace: str, name: str, conditions: Iterable[Mapping[str, Any]]) -> None:
        """Show the status that each of `SHOWN_CONDITIONS` has, and no longer the one it had.

        `conditions` are as the status of a workload holds them; what is not among them has no series afterwards.
        """
        holds = {condition["type"]: condition["status"] for condition in conditions}
        for kind, status in product(SHOWN_CONDITIONS, _STATUSES):
            if holds.get(kind) == status:
                self.workload_condition.labels(namespace, name, kind, status).set(1)
            else:
                # By all of its labels: `remove_by_labels` looks at every series of every workload, at every pass.
                self.workload_condition.remove(namespace, name, kind, status)

    def forget_workload(self, namespace: str, name: str) -> None:
        """Drop the series of a workload that is gone; otherwise its cost would be plotted for ever."""
        self.forget_running(namespace, name)
        self.set_conditions(namespace, name, ())
        self.observed_ttft_p95.remove_by_labels({"namespace": namespace, "name": name})

    def forget_running(self, namespace: str, name: str) -> None:
        """Drop what is said of a workload's running candidate, where there is none, or none in USD."""
        for gauge in (self.workload_cost, self.predicted_ttft_p95):
            gauge.remove_by_labels({"namespace": namespace, "name": name})

    def render(self) -> bytes:
        """All series in Prometheus' text format, `CONTENT_TYPE`."""
        return generate_latest(self.registry)
