"""A cluster full of workloads: how long all of them take to be decided, what that costs in memory, and how quiet the
operator is afterwards. Requests are counted where they arrive, by the API server's audit log.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster import Cluster, apply, mark, named, requests, wait_ready
from metainf_operator.cluster import Cluster as Door
from metainf_operator.cluster import Connection
from metainf_operator.feeds import Feed
from metainf_operator.resources import INFERENCE_WORKLOAD, NODE
from metainf_operator.store import Store

__all__ = ["Figures", "run_fleet"]

_NAMESPACE = "fleet"
_KINDS = (("a100", "27.40"), ("h100", "55.04"), ("l40s", "7.20"), ("l4", "3.20"), ("t4", "2.10"))
_PER_NODE = {"a100": 8, "h100": 8, "l40s": 4, "l4": 4, "t4": 4}
_POLL_S = 0.25
_LIMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured; times in seconds, memory in MiB."""

    workloads: int
    first_s: float
    price_change_s: float
    cpu_s: float
    idle_mib: float
    full_mib: float
    peak_mib: float
    steady_s: float
    steady_writes: dict[str, int]
    steady_reads: int


def _workload(number: int) -> dict[str, Any]:
    """One of several kinds, so that the pools differ in what suits whom."""
    rates = ("0.5", "1", "2")
    lengths = (400, 900, 1500)
    return {
        "apiVersion": "metainf.dev/v1alpha1",
        "kind": "InferenceWorkload",
        "metadata": {"name": f"w{number:04}", "namespace": _NAMESPACE},
        "spec": {
            "model": {"id": "Qwen/Qwen2.5-7B-Instruct"},
            "traffic": {
                "requestsPerSecond": rates[number % 3],
                "inputTokens": {"mean": lengths[number % 2]},
                "outputTokens": {"mean": 150},
            },
            "slo": {"ttft": {"p95": "2s"}, "tpot": {"p95": "100ms"}},
            "budget": {"perHour": "30"},
            "policy": {"cooldown": "0s"},
        },
    }


def _memory_mib(pid: int, field: str = "VmRSS") -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/{pid}/status has no {field}")


def _cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class _Status:
    """What of a workload's status is looked for."""

    decided: bool
    pool: str
    cost: str
    observed: bool
    """Whether nothing runs, or it is told of all that runs that nobody answers there: the pods are fake."""


class _Watched:
    """The fleet's status by a watch of our own: listing it over and over would be most of what is measured."""

    def __init__(self, door: Door) -> None:
        self.store: Store[str, _Status] = Store("fleet")
        feed = Feed(INFERENCE_WORKLOAD, self.store, _status, lambda m: str(m["name"]), namespaces=(_NAMESPACE,))
        self._task = asyncio.create_task(feed.watch(door))

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class _Operator:
    """The operator as a process of this machine."""

    def __init__(self, cluster: Cluster) -> None:
        environment = {
            **os.environ,
            "METAINF_HUB": "false",
            "METAINF_LEASE_NAMESPACE": "default",
            "METAINF_HEALTH_PORT": "0",
            "METAINF_METRICS_PORT": "0",
            "METAINF_KUBECONFIG": str(cluster.kubeconfig),
            "KUBECONFIG": str(cluster.kubeconfig),
        }
        self.log = cluster.log_dir / "bench-operator.log"
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "metainf_operator"]
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


async def _until(what: str, left_of: Callable[[], int], operator: _Operator, say: Callable[[str], None]) -> float:
    """Seconds until it holds, looked at every quarter of a second; a line of progress every 10 s."""
    started = told = time.monotonic()
    while True:
        if operator.process.poll() is not None:
            raise RuntimeError(f"the operator ended with {operator.process.returncode}: see {operator.log}")
        left = left_of()
        now = time.monotonic()
        if not left:
            return now - started
        if now - started > _LIMIT_S:
            raise RuntimeError(f"{what}: {left} left after {_LIMIT_S:.0f} s: see {operator.log}")
        if now - told > 10:
            told = now
            say(f"{what}: {left} left")
        await asyncio.sleep(_POLL_S)


async def run_fleet(cluster: Cluster, workloads: int, steady_s: float, say: Callable[[str], None]) -> Figures:
    """Fill the cluster, start the operator, change a price, then watch it rest."""
    nodes = []
    for kind, price in _KINDS:
        needed = -(-workloads * 3 // 10 // _PER_NODE[kind]) + 1
        nodes += [named(kind, f"{kind}-{i}", cost_per_hour=price) for i in range(needed)]
    say(f"adding {len(nodes)} nodes of 5 kinds")
    apply(cluster, nodes)
    wait_ready(cluster, *(n["metadata"]["name"] for n in nodes), timeout_s=180)
    door = await Door.connect(Connection(cluster.kubeconfig))
    try:
        idle_mib = await _idle_memory(cluster, door, say)
        return await _measure(cluster, door, workloads, steady_s, idle_mib, say)
    finally:
        await door.close()


async def _idle_memory(cluster: Cluster, door: Door, say: Callable[[str], None]) -> float:
    """Memory of an operator that has nothing to do."""
    operator = _Operator(cluster)
    try:
        await asyncio.sleep(20)
        mib = _memory_mib(operator.process.pid)
        say(f"idle: {mib:.0f} MiB")
        return mib
    finally:
        operator.stop()


async def _measure(
    cluster: Cluster, door: Door, workloads: int, steady_s: float, idle_mib: float, say: Callable[[str], None]
) -> Figures:
    apply(cluster, [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _NAMESPACE}}])
    say(f"creating {workloads} workloads")
    for start in range(0, workloads, 50):
        batch = range(start, min(start + 50, workloads))
        await asyncio.gather(*(door.apply(INFERENCE_WORKLOAD, _workload(n)) for n in batch))

    watched = _Watched(door)
    await watched.store.synced.wait()
    operator = _Operator(cluster)
    try:
        first_s = await _until("first decisions", lambda: _undecided(watched), operator, say)
        say(f"all decided {first_s:.1f} s after the operator's start")
        await asyncio.sleep(20)  # pods of the fake nodes come up, rollouts settle
        price_change_s = await _price_change(door, watched, operator, say)
        say(f"all looked at again {price_change_s:.1f} s after the price changed")
        cpu_s = _cpu_s(operator.process.pid)
        observed_s = await _until("told that fake pods do not answer", lambda: _unobserved(watched), operator, say)
        say(f"that fake pods do not answer is told {observed_s:.0f} s later")
        await asyncio.sleep(60)
        full_mib, peak_mib = _memory_mib(operator.process.pid), _memory_mib(operator.process.pid, "VmHWM")
        place = mark(cluster)
        say(f"watching it rest for {steady_s:.0f} s")
        await asyncio.sleep(steady_s)
        mine = [r for r in requests(cluster, place) if "metainf" in r.user_agent.lower() or _by_operator(r)]
        writes = Counter(f"{r.verb} {r.resource}" for r in mine if r.is_write)
        reads = sum(1 for r in mine if not r.is_write)
        return Figures(
            workloads=workloads,
            first_s=first_s,
            price_change_s=price_change_s,
            cpu_s=cpu_s,
            idle_mib=idle_mib,
            full_mib=full_mib,
            peak_mib=peak_mib,
            steady_s=steady_s,
            steady_writes=dict(writes),
            steady_reads=reads,
        )
    finally:
        operator.stop()
        await watched.stop()


def _by_operator(request: Any) -> bool:
    """The bench itself only lists; every other request of its user is the operator's."""
    return request.user == "admin"


def _status(body: Mapping[str, Any]) -> _Status:
    status = body.get("status") or {}
    decided = any(c["type"] == "Feasible" and c["status"] != "Unknown" for c in status.get("conditions") or ())
    observed = not status.get("replicas") or (status.get("observed") or {}).get("pods") == 0
    return _Status(decided, status.get("pool", ""), status.get("costPerHour", ""), observed)


def _undecided(watched: _Watched) -> int:
    return sum(not status.decided for status in watched.store.values())


def _unobserved(watched: _Watched) -> int:
    return sum(not status.observed for status in watched.store.values())


async def _price_change(door: Door, watched: _Watched, operator: _Operator, say: Callable[[str], None]) -> float:
    """Lower the price of the pool that most run on; time until the status of each of its workloads shows it."""
    pools = Counter(status.pool for status in watched.store.values() if status.pool)
    if not pools:
        raise RuntimeError("no workload runs: nothing can follow a price")
    pool = pools.most_common(1)[0][0]
    before = {name: status.cost for name, status in watched.store.items() if status.pool == pool}
    kind = next(kind for kind, _ in _KINDS if kind in pool)
    price = {"metadata": {"annotations": {"metainf.dev/cost-per-hour": str(round(float(dict(_KINDS)[kind]) * 0.9, 4))}}}
    listing = await door.list(NODE, project=lambda n: n["metadata"]["name"])
    await asyncio.gather(*(door.patch_merge(NODE, n, price) for n in listing.items if n.startswith(f"{kind}-")))

    def stale() -> int:
        now = {name: status.cost for name, status in watched.store.items() if status.pool == pool}
        return sum(now.get(name) == cost for name, cost in before.items())

    return await _until("after the price change", stale, operator, say)
