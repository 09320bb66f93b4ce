"""The operator as a process of this machine, with a service account that has the chart's roles and no others.

Separate because pods of the fake nodes run nothing: here the operator is started, killed, frozen and read, and its
rights are still exactly those that an installation gives it.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster import Cluster, token_kubeconfig
from e2e.cluster.processes import forget_process, is_running, start_process
from e2e.kube import ROOT, Kube
from e2e.waiting import eventually

__all__ = ["LEASE", "SYSTEM_NAMESPACE", "Account", "OperatorProcess", "Operators", "install_account"]

SYSTEM_NAMESPACE = "metainf-e2e"
LEASE = "metainf-operator"
_CHART = ROOT / "charts/metainf"
_RIGHTS = ("templates/rbac.yaml", "templates/serviceaccount.yaml")
_START_S = 45.0
# Shorter than the defaults, so that a story need not wait 15 s for a killed leader's Lease, and long enough for a
# renewal on a machine that is busy with everything else.
_LEASE_TIMES = {
    "METAINF_LEASE_DURATION_S": "6",
    "METAINF_LEASE_RENEW_DEADLINE_S": "4",
    "METAINF_LEASE_RETRY_PERIOD_S": "1",
}


@dataclass(frozen=True, slots=True)
class Account:
    """A service account with the chart's roles: its user name, as the audit log has it, and its kubeconfig."""

    user: str
    kubeconfig: Path

    @property
    def name(self) -> str:
        """The service account's name."""
        return self.user.rpartition(":")[2]


def install_account(cluster: Cluster, kube: Kube, release: str = "metainf") -> Account:
    """Apply what the chart gives its operator of rights, as one release of it, and take the account's role."""
    only = [option for template in _RIGHTS for option in ("--show-only", template)]
    rendered = _helm(cluster, "template", release, str(_CHART), "--namespace", SYSTEM_NAMESPACE, *only)
    system = kube.within(SYSTEM_NAMESPACE)
    system.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM_NAMESPACE}})
    account = ""
    for manifest in yaml.safe_load_all(rendered):
        if manifest:
            system.apply(manifest)
            account = manifest["metadata"]["name"] if manifest["kind"] == "ServiceAccount" else account
    assert account, "the chart renders no ServiceAccount"
    user = f"system:serviceaccount:{SYSTEM_NAMESPACE}:{account}"
    return Account(user, token_kubeconfig(cluster, SYSTEM_NAMESPACE, account))


def _helm(cluster: Cluster, *arguments: str) -> str:
    command = [str(cluster.bin_dir / "helm"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=cluster.environment(), timeout=60, check=False)
    assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}"
    return done.stdout


@dataclass(eq=False)
class OperatorProcess:
    """One operator: started, stopped, killed and frozen by its process id; `settings` are METAINF_* variables."""

    cluster: Cluster
    account: Account
    name: str = "operator"
    settings: Mapping[str, str] = field(default_factory=dict)
    program: str = sys.executable

    @property
    def log(self) -> Path:
        """What it has printed, of all its lives."""
        return self.cluster.log_dir / f"{self.name}.log"

    @property
    def _processes(self) -> Path:
        return self.cluster.state_dir / "processes"

    @property
    def running(self) -> bool:
        """Whether its process lives, frozen or not."""
        return is_running(self._processes, self.name)

    @property
    def pid(self) -> int:
        """Its process id."""
        mark = json.loads((self._processes / f"{self.name}.pid.json").read_text())
        return int(mark["pid"])

    def environment(self) -> dict[str, str]:
        """Its whole environment; nothing of METAINF_* comes from ours."""
        inherited = {k: v for k, v in self.cluster.environment().items() if not k.startswith("METAINF_")}
        own = {
            "METAINF_KUBECONFIG": str(self.account.kubeconfig),
            "METAINF_LEASE_NAME": LEASE,
            "METAINF_LEASE_NAMESPACE": SYSTEM_NAMESPACE,
            "METAINF_HUB": "false",
            "METAINF_HEALTH_PORT": "0",
            "METAINF_METRICS_PORT": "0",
            **_LEASE_TIMES,
        }
        return {**inherited, **own, **self.settings}

    def start(self) -> "OperatorProcess":
        """Start it, without a wait."""
        self._born_at = self.log.stat().st_size if self.log.exists() else 0
        command = [self.program, "-m", "metainf_operator"]
        start_process(self._processes, self.name, command, self.log, self.environment())
        return self

    def start_leading(self) -> "OperatorProcess":
        """Start it, and wait until it acts."""
        self.start()
        eventually(self.assert_leading, _START_S)
        return self

    def assert_leading(self) -> None:
        """Assert that it lives and took the Lease in this life."""
        assert self.running, f"{self.name} ended:\n{self.tail()}"
        assert any(line.get("message") == "leading" for line in self.lines()), f"{self.name} does not lead yet"

    def assert_ready(self) -> None:
        """Assert that it lives and its caches are filled, whether it leads or stands by."""
        assert self.running, f"{self.name} ended:\n{self.tail()}"
        assert self.ask("/readyz") == 200, f"{self.name} is not ready"

    def ask(self, path: str) -> int:
        """The status that its health port answers with, 0 for no answer."""
        port = next((line["health_port"] for line in self.lines() if line.get("message") == "started"), None)
        if port is None:
            return 0
        # A free port is taken for each address family, and only the first one is told.
        for host in ("127.0.0.1", "[::1]"):
            try:
                with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=5) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                error.close()
                return error.code
            except OSError:
                continue
        return 0

    def known(self, kind: str) -> int | None:
        """How many objects of a kind (`nodes`) it knows of; None for no answer."""
        return self._gauge(f'metainf_cached_objects{{kind="{kind}"}}')

    def usable_nodes(self) -> int | None:
        """How many nodes it takes for capacity; None for no answer."""
        return self._gauge("metainf_usable_nodes")

    def _gauge(self, series: str) -> int | None:
        port = next((line["metrics_port"] for line in self.lines() if line.get("message") == "started"), None)
        if port is None:
            return None
        for host in ("127.0.0.1", "[::1]"):
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=5) as answer:
                    lines = answer.read().decode().splitlines()
                found = (line for line in lines if line.startswith(f"{series} "))
                return next((int(float(line.split()[-1])) for line in found), None)
        return None

    def lines(self, since: int | None = None) -> list[dict[str, Any]]:
        """Its log lines of this life, or since a place in the log; what is no JSON as {"message": ...}."""
        if not self.log.exists():
            return []
        with self.log.open("rb") as log:
            log.seek(getattr(self, "_born_at", 0) if since is None else since)
            text = log.read().decode(errors="replace")
        return [_parsed(line) for line in text.splitlines() if line.strip()]

    def mark(self) -> int:
        """The place in the log that is its end now."""
        return self.log.stat().st_size if self.log.exists() else 0

    def tail(self, count: int = 30) -> str:
        """Its last lines."""
        return "\n".join(_short(line) for line in self.lines()[-count:])

    def stop(self) -> int:
        """SIGTERM, as a rollout of the operator's Deployment does; the exit code."""
        return self._end(signal.SIGTERM, within_s=35)

    def kill(self) -> None:
        """SIGKILL, as the machine's end: nothing is drained, the Lease stays taken."""
        self._end(signal.SIGKILL, within_s=10)

    def freeze(self) -> None:
        """SIGSTOP: it does nothing, and knows nothing of it."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: it goes on where it was."""
        os.kill(self.pid, signal.SIGCONT)

    def wait_for_end(self, within_s: float) -> int:
        """The exit code, once it ended by itself."""
        pid, until_s = self.pid, time.monotonic() + within_s
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                forget_process(self._processes, self.name)
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < until_s, f"{self.name} did not end within {within_s:g} s:\n{self.tail()}"
            time.sleep(0.05)

    def _end(self, number: int, within_s: float) -> int:
        os.kill(self.pid, signal.SIGCONT)  # a frozen one would not hear of its end
        os.kill(self.pid, number)
        try:
            return self.wait_for_end(within_s)
        except AssertionError:
            os.kill(self.pid, signal.SIGKILL)
            self.wait_for_end(10)
            raise

    def assert_sane(self, since: int, *, forbidden: bool = False) -> None:
        """Assert that nothing since a place in its log is a crash, nor, unless it may be, a lack of rights."""
        found = [line for line in self.lines(since) if _is_crash(line) or (not forbidden and _is_forbidden(line))]
        assert not found, f"{self.name} logged:\n" + "\n".join(_short(line) for line in found[:5])


@dataclass(eq=False)
class Operators:
    """The operators of this run. One is shared by all the stories that do it no harm and take it as it comes."""

    cluster: Cluster
    kube: Kube
    account: Account
    shared: OperatorProcess | None = None
    others: list[OperatorProcess] = field(default_factory=list)

    def usual(self) -> OperatorProcess:
        """The shared one: it leads, or is started anew where a story ended it."""
        if self.shared is None or not self.shared.running:
            self.shared = OperatorProcess(self.cluster, self.account)
            self.shared.start_leading()
        return self.shared

    def rest(self) -> None:
        """End the shared one, for a story that starts its own."""
        if self.shared is not None and self.shared.running:
            self.shared.stop()
        self.shared = None

    def another(self, name: str, *, account: Account | None = None, **settings: str) -> OperatorProcess:
        """One with a name and settings of its own, not started yet."""
        made = OperatorProcess(self.cluster, account or self.account, name, settings)
        self.others.append(made)
        return made

    def end_others(self) -> None:
        """End those that a story started."""
        for each in reversed(self.others):
            if each.running:
                each.stop()  # not by force: the next operator would wait for the Lease
        self.others.clear()


def _is_crash(line: Mapping[str, Any]) -> bool:
    return "exception" in line or "Traceback" in str(line.get("message"))


def _is_forbidden(line: Mapping[str, Any]) -> bool:
    text = f"{line.get('message')} {line.get('error', '')}"
    # A namespace on its way out says no with the words of a missing right.
    return "orbidden" in text and "being terminated" not in text


def _parsed(line: str) -> dict[str, Any]:
    try:
        read = json.loads(line)
    except ValueError:
        return {"message": line}
    return read if isinstance(read, dict) else {"message": line}


def _short(line: Mapping[str, Any]) -> str:
    fields = {k: v for k, v in line.items() if k not in ("time", "level", "logger", "message", "exception")}
    text = f"{line.get('time', '')[11:19]} {line.get('level', '')} {line.get('message')} {fields or ''}".strip()
    return f"{text}\n{line['exception']}" if "exception" in line else text
