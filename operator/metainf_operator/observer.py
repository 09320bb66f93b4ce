"""Watches the engines: reads their metrics round after round, and says when a pass has something new to tell.

Separate from the passes, which start from what stands and ask here what was seen, and from the pure modules, which say
what it means. It writes nothing to the cluster. What it keeps is lost with the process, and seen again within a window.

A pod that cannot be read is asked less and less often, up to every five minutes, and counts as unreadable from the
second failure in a row: one answer that is lost is no fault. A judgement counts once two rounds in a row come to it, so
that a figure at the very bound does not turn a condition over twice a minute.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from metainf.manifests import InferenceWorkload, TrafficSource
from metainf.workload import LatencyMetric, Slo, Statistic, Traffic
from metainf_operator.engine_metrics import EngineCounts, parse_engine_metrics, useful_lines
from metainf_operator.engine_pods import EnginePod
from metainf_operator.ledger import WorkloadKey
from metainf_operator.metrics import Metrics
from metainf_operator.observations import Observation, Window
from metainf_operator.observed_slo import LEAST_REQUESTS, judge
from metainf_operator.observed_status import Sight, is_due, slo_moved, status_fields
from metainf_operator.observed_traffic import differs, traffic_seen
from metainf_operator.scraping import Scrape, ScrapeError, ScrapeFault
from metainf_operator.world import ObjectKey, WorkloadState, World

__all__ = ["Observer"]

logger = logging.getLogger(__name__)

_UNREADABLE_AFTER = 2
_LONGEST_PAUSE_S = 300.0
_LEAST_REQUESTS = min(LEAST_REQUESTS.values())

ServingKey = tuple[WorkloadKey, str]


@dataclass(slots=True)
class _Pod:
    """What is known of one pod: its latest counts, and how reading it goes."""

    counts: EngineCounts | None = None
    lines: int = 0
    """Hash of the lines that the counts were read from."""
    failures: int = 0
    fault: str = ""
    ask_at: datetime | None = None


@dataclass(slots=True)
class _Watched:
    """One serving of a workload."""

    window: Window
    began: datetime
    sight: Sight | None = None
    told: object = None
    pending: object = None


class Observer:
    """Reads engines and remembers the last minutes. `look` is told of workloads that a pass should look at."""

    def __init__(
        self,
        world: World,
        scrape: Scrape,
        metrics: Metrics,
        *,
        interval_s: float,
        window_s: float,
        now: Callable[[], datetime],
        look: Callable[[WorkloadKey], None],
    ) -> None:
        self._world = world
        self._scrape = scrape
        self._metrics = metrics
        self._interval_s = interval_s
        self._window_s = window_s
        self._now = now
        self._look = look
        self._pods: dict[str, _Pod] = {}
        self._watched: dict[ServingKey, _Watched] = {}
        self._looked_at: dict[WorkloadKey, Traffic] = {}

    def sight(self, key: WorkloadKey, serving: str | None) -> Sight | None:
        """What was seen of a serving; None where it was not looked at long enough to say."""
        watched = None if serving is None else self._watched.get((key, serving))
        return None if watched is None else watched.sight

    def latest(self, key: WorkloadKey) -> Observation | None:
        """The last minutes of the serving that answers most of a workload's requests."""
        mine = [watched.window.observation() for (owner, _), watched in self._watched.items() if owner == key]
        return max((each for each in mine if each is not None), key=lambda each: each.requests, default=None)

    # a round

    async def round(self) -> None:
        """Read every engine that is due, and tell who should be looked at."""
        engines = self._engines()
        self._forget(engines)
        await asyncio.gather(*(self._read(pod) for pods in engines.values() for pod in pods.values()))
        at = self._now()
        for key, pods in engines.items():
            self._take_in(key, pods, at)
        for state in self._world.workloads.values():
            if state.manifest is not None and not state.deleting:
                self._tell(state, state.manifest, at)

    def _engines(self) -> dict[ServingKey, dict[str, EnginePod]]:
        """Ready pods of ours by serving, each by its name; servings that stand without any pod included."""
        found: dict[ServingKey, dict[str, EnginePod]] = {}
        for child in self._world.deployments.values():
            owner = None if child.workload is None else WorkloadKey(child.namespace, child.workload)
            state = None if owner is None else self._world.workloads.get(owner)
            if owner is not None and state is not None and state.uid == child.owner_uid and child.serving:
                found[owner, child.serving] = {}
        for name, pod in self._own_pods():
            if pod[0] in found:
                found[pod[0]][name[1]] = pod[1]
        return found

    def _own_pods(self) -> Iterator[tuple[ObjectKey, tuple[ServingKey, EnginePod]]]:
        for name, use in self._world.pods.items():
            if use.engine is not None and use.workload is not None:
                yield name, ((use.workload, use.engine.serving), use.engine)

    def _forget(self, engines: dict[ServingKey, dict[str, EnginePod]]) -> None:
        uids = {pod.uid for pods in engines.values() for pod in pods.values()}
        self._pods = {uid: pod for uid, pod in self._pods.items() if uid in uids}
        self._watched = {key: watched for key, watched in self._watched.items() if key in engines}
        standing = {key for key, _ in engines}
        for gone in self._looked_at.keys() - standing:
            del self._looked_at[gone]

    async def _read(self, engine: EnginePod) -> None:
        pod = self._pods.setdefault(engine.uid, _Pod())
        if pod.ask_at is not None and self._now() < pod.ask_at:
            return
        try:
            lines = useful_lines(await self._scrape(engine.address))
            if pod.counts is None or hash(lines) != pod.lines:
                pod.counts, pod.lines = parse_engine_metrics(lines), hash(lines)
        except ScrapeError as error:
            self._failed(pod, error.fault, str(error))
        except ValueError as error:
            self._failed(pod, ScrapeFault.NO_METRICS, f"/metrics cannot be read: {error}")
        else:
            pod.failures, pod.fault, pod.ask_at = 0, "", None

    def _failed(self, pod: _Pod, fault: ScrapeFault, detail: str) -> None:
        self._metrics.scrape_failures.labels(fault.value).inc()
        pod.failures += 1
        if pod.failures <= _UNREADABLE_AFTER:
            pod.fault = fault.value  # as told first: a status is not written anew because it fails otherwise now
        if pod.failures >= _UNREADABLE_AFTER:
            pause_s = min(self._interval_s * 2.0 ** min(pod.failures - 1, 16), _LONGEST_PAUSE_S)
            pod.ask_at = self._now() + timedelta(seconds=pause_s)
        logger.debug("an engine cannot be read", extra={"fault": fault.value, "error": detail})

    # what it comes to

    def _take_in(self, key: ServingKey, pods: dict[str, EnginePod], at: datetime) -> None:
        watched = self._watched.get(key)
        if watched is None:
            watched = self._watched[key] = _Watched(Window(timedelta(seconds=self._window_s)), at)
        known = {name: self._pods[engine.uid] for name, engine in pods.items()}
        watched.window.add(
            at,
            {
                engine.uid: None if self._pods[engine.uid].failures else self._pods[engine.uid].counts
                for engine in pods.values()
            },
        )
        state = self._world.workloads.get(key[0])
        slo = Slo() if state is None or state.manifest is None else state.manifest.workload.slo
        unreadable = tuple(
            (name, pod.fault) for name, pod in sorted(known.items()) if pod.failures >= _UNREADABLE_AFTER
        )
        self._judge(watched, slo, Sight(pods=len(pods), unreadable=unreadable), at)

    def _judge(self, watched: _Watched, slo: Slo, now: Sight, at: datetime) -> None:
        """Take the newest figures where they come to the judgement that was told, or to another for the second time.

        At first, silence is told only after a whole window of it: a new leader has seen nothing yet.
        """
        seen = watched.window.observation()
        enough = seen is not None and seen.requests >= _LEAST_REQUESTS
        found = (enough, judge(slo, seen))
        fresh = replace(now, seen=seen if enough else None, judgement=found[1])
        early = watched.sight is None and not enough and at - watched.began < timedelta(seconds=self._window_s)
        if watched.told == found or (watched.pending == found and not early):
            watched.sight, watched.told, watched.pending = fresh, found, None
            return
        watched.pending = found
        if watched.sight is not None:
            watched.sight = replace(watched.sight, pods=now.pods, unreadable=now.unreadable)
        elif now.unreadable:
            watched.sight = now

    def _tell(self, state: WorkloadState, manifest: InferenceWorkload, at: datetime) -> None:
        """Set the workload's metric, and have it looked at where a pass would tell or decide something else."""
        status = state.status
        sight = self.sight(state.key, _serving(status))
        self._set_metric(state.key, sight)
        slo = manifest.workload.slo
        if sight is not None:
            fields = status_fields(sight, slo, None, "", at)
            moved = slo_moved(status, sight, slo)
            if is_due(status.get("observed") or {}, fields, transition=moved, now=at):
                self._look(state.key)
                return
        if manifest.policy.traffic is TrafficSource.OBSERVED and self._is_other_traffic(state.key, manifest):
            self._look(state.key)

    def _is_other_traffic(self, key: WorkloadKey, manifest: InferenceWorkload) -> bool:
        """Whether other traffic is seen than when a pass was last asked to decide by it."""
        seen = self.latest(key)
        fresh = None if seen is None else traffic_seen(manifest.workload.traffic, seen, window_s=self._window_s)
        before = self._looked_at.get(key)
        if fresh is None or (before is not None and not differs(before, fresh.traffic)):
            return False
        self._looked_at[key] = fresh.traffic
        return True

    def _set_metric(self, key: WorkloadKey, sight: Sight | None) -> None:
        seen = None if sight is None else sight.seen
        found = None if seen is None else seen.statistic(LatencyMetric.TTFT, Statistic.P95)
        if found is None:
            self._metrics.observed_ttft_p95.remove_by_labels({"namespace": key.namespace, "name": key.name})
        else:
            self._metrics.observed_ttft_p95.labels(key.namespace, key.name).set(found.value)


def _serving(status: dict[str, Any]) -> str | None:
    """The serving that a status speaks of, which its selector names last."""
    return str(status.get("selector") or "").rpartition("=")[2] or None
