"""How one operator process is set up, from flags and environment variables.

Separate, and a frozen value, so that nothing deep inside reads the environment. A flag wins over its variable:
`--resync-s 60` over `METAINF_RESYNC_S=60`. Every setting has both, named after the field.
"""

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from metainf_operator.leader import LeaseTimes

__all__ = ["LogFormat", "LogLevel", "OperatorSettings", "SettingsError", "settings_from"]

ENVIRONMENT_PREFIX = "METAINF_"


class SettingsError(ValueError):
    """A setting cannot be used; the message names the flag, the variable and what it takes."""


class LogFormat(StrEnum):
    """How log lines look."""

    JSON = "json"
    PLAIN = "plain"


class LogLevel(StrEnum):
    """The least important lines that are still written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """Every setting of the operator; `help` is the line that --help shows, the docstring says the rest."""

    namespaces: tuple[str, ...] = field(
        default=(), metadata={"help": "namespaces to watch, comma-separated; empty: the whole cluster"}
    )
    """With namespaces named, a Role in each is enough, and nothing is listed across the cluster."""

    node_access: bool = field(
        default=True, metadata={"help": "whether Nodes may be read; without, --pools-file is needed"}
    )
    """False where a tenant may not list nodes: pools come from the file, capacity is its nodes.max less own holds."""

    pools_file: Path | None = field(
        default=None, metadata={"help": "file of AcceleratorPool manifests to use where Nodes are not read"}
    )
    """Mounted from a ConfigMap; read again at each resync, since a mounted ConfigMap changes in place."""

    kubeconfig: Path | None = field(
        default=None, metadata={"help": "kubeconfig; unset: the pod's service account, else $KUBECONFIG"}
    )
    """A process outside of the cluster needs it."""

    context: str | None = field(default=None, metadata={"help": "context of the kubeconfig; unset: its current one"})
    """As kubectl's --context."""

    workers: int = field(default=4, metadata={"help": "keys that are reconciled at a time"})
    """A pass mostly waits for the API server; choosing is the part that uses a core."""

    resync_s: float = field(
        default=300.0, metadata={"help": "seconds between two looks at a workload that nothing has happened to"}
    )
    """A safety net under the watches; it writes nothing where nothing differs."""

    observe_interval_s: float = field(
        default=30.0, metadata={"help": "seconds between two readings of the engines' metrics; 0: they are not read"}
    )
    """A reading takes the engine a millisecond, and the operator about five where anything was counted."""

    observe_window_s: float = field(
        default=300.0,
        metadata={"help": "seconds over which observed figures are taken; 2 to 120 intervals, at most 3600"},
    )
    """Longer smooths, and sees a change of traffic later. All intervals of a window are summed up in every round."""

    drain_s: float = field(default=20.0, metadata={"help": "seconds that passes under way get to finish after SIGTERM"})
    """Shorter than the pod's grace period of 30 s, so that the Lease is still released."""

    lease_name: str = field(
        default="metainf-operator", metadata={"help": "name of the Lease; operators with different ones all act"}
    )
    """One per installation: a second release in the cluster with its own namespaces takes another name."""

    lease_namespace: str | None = field(
        default=None, metadata={"help": "namespace of the Lease; unset: the operator's own"}
    )
    """The chart grants the Lease in the operator's own namespace."""

    lease_duration_s: float = field(default=15.0, metadata={"help": "seconds before a silent leader is replaced"})
    """Longer than the renew deadline, by the time that a write may be on its way."""

    lease_renew_deadline_s: float = field(
        default=10.0, metadata={"help": "seconds without a renewal after which a leader stops writing"}
    )
    """Shorter than the duration."""

    lease_retry_period_s: float = field(default=2.0, metadata={"help": "seconds between two attempts at the Lease"})
    """Shorter than the deadline; each renewal is one write to the API server."""

    identity: str = field(default="", metadata={"help": "name of this replica in the Lease; empty: the host's name"})
    """A random suffix is added, since two processes must never share an identity."""

    health_port: int = field(default=8080, metadata={"help": "port of /healthz and /readyz; 0 takes a free one"})
    """Standbys serve it as well."""

    metrics_port: int = field(
        default=9090, metadata={"help": "port of /metrics; the health port's number puts all on one, 0 a free one"}
    )
    """Apart from health, so that a NetworkPolicy can let Prometheus in and nobody else."""

    log_level: LogLevel = field(
        default=LogLevel.INFO, metadata={"help": "least important lines that are still written"}
    )
    """INFO says what changed; DEBUG has a line per pass."""

    log_format: LogFormat = field(default=LogFormat.JSON, metadata={"help": "how log lines look"})
    """Plain is for people at a terminal."""

    max_concurrent_switches: int = field(
        default=3, metadata={"help": "running workloads that switch or roll at a time over the cluster"}
    )
    """A price that moves moves many workloads: a pool should not reload all its models at once."""

    predictor_artifact: Path | None = field(
        default=None,
        metadata={"help": "file of a trained predictor; unset: the one shipped, or the analytical one where none is"},
    )
    """A damaged or foreign file means the analytical predictor, a condition and a metric that say so."""

    hub: bool = field(default=True, metadata={"help": "whether the model hub may be asked for config.json and commits"})
    """False in an air-gapped cluster: models come from the bundled list or a ConfigMap, at revisions as written."""

    opencost_url: str | None = field(
        default=None, metadata={"help": "address of OpenCost's metrics; unset: OpenCost is not asked"}
    )
    """As http://opencost.opencost:9003/metrics."""

    engine_version: str = field(default="0.32.0", metadata={"help": "vLLM version where a workload names none"})
    """Flags are chosen for this version's parser; a change alone restarts nothing that runs."""

    image_nvidia: str = field(default="vllm/vllm-openai:v{version}", metadata={"help": "engine image for NVIDIA pools"})
    """`{version}` stands for the engine's version. Source: docs.vllm.ai, deployment/docker."""

    image_amd: str = field(default="vllm/vllm-openai-rocm:v{version}", metadata={"help": "engine image for AMD pools"})
    """As above. Source: docs.vllm.ai, deployment/docker, AMD."""

    image_intel: str = field(
        default="", metadata={"help": "engine image for Intel pools; empty: a workload has to name one"}
    )
    """There is no image of the vLLM project for Gaudi that is tagged by vLLM version, so none is assumed."""

    image_cpu: str = field(
        default="public.ecr.aws/q9t5s3a7/vllm-cpu-release-repo:v{version}",
        metadata={"help": "engine image for CPU pools"},
    )
    """As above. Source: docs.vllm.ai, getting_started/installation/cpu."""

    @property
    def unwatched(self) -> str:
        """Why engines are not watched, with the setting to change; empty where they are."""
        if self.observe_interval_s:
            return ""
        called = f"{_called('observe_interval_s')}, the chart's operator.observeIntervalSeconds,"
        return f"{called} is 0: no metrics are read"

    @property
    def lease_times(self) -> LeaseTimes:
        """The Lease's three durations."""
        return LeaseTimes(self.lease_duration_s, self.lease_renew_deadline_s, self.lease_retry_period_s)

    def image_for(self, vendor: str, version: str) -> str | None:
        """The engine image of a vendor (`NVIDIA`, `AMD`, `INTEL`, `CPU`), None where the workload must name one."""
        images = {
            "NVIDIA": self.image_nvidia,
            "AMD": self.image_amd,
            "INTEL": self.image_intel,
            "CPU": self.image_cpu,
        }
        template = images.get(vendor.upper(), "")
        return template.replace("{version}", version) or None


def settings_from(arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> OperatorSettings:
    """The settings that flags and variables give. SettingsError: one of them, or two together, cannot be."""
    environment = os.environ if environment is None else environment
    given = vars(_parser().parse_args(list(arguments)))
    values = {}
    for each in fields(OperatorSettings):
        name = each.name
        raw = given[name] if given[name] is not None else environment.get(_variable(name))
        if raw is not None and not (given[name] is None and _is_service_link(raw)):
            values[name] = _parsed(name, each.type, raw)
    settings = OperatorSettings(**values)
    _check(settings)
    return settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m metainf_operator", description="Chooses and runs how models are served.", allow_abbrev=False
    )
    for each in fields(OperatorSettings):
        says = each.metadata["help"].replace("%", "%%")
        parser.add_argument(_flag(each.name), help=f"{says} [{_variable(each.name)}]", metavar="VALUE")
    return parser


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return ENVIRONMENT_PREFIX + name.upper()


def _is_service_link(raw: str) -> bool:
    """A Service named metainf-metrics puts METAINF_METRICS_PORT=tcp://10.0.0.1:9090 into every pod beside it."""
    return raw.startswith(("tcp://", "udp://", "sctp://"))


def _boolean(raw: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    return words[raw.strip().lower()]


def _names(raw: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in raw.split(",") if part.strip()))
    for name in names:
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
            raise ValueError
    return names


_KINDS: dict[Any, tuple[Callable[[str], Any], str]] = {
    bool: (_boolean, "true or false"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    str: (str.strip, "text"),
    LogLevel: (lambda raw: LogLevel(raw.strip().lower()), "one of " + ", ".join(LogLevel)),
    LogFormat: (lambda raw: LogFormat(raw.strip().lower()), "one of " + ", ".join(LogFormat)),
    tuple[str, ...]: (_names, "names of namespaces, comma-separated"),
    Path | None: (lambda raw: Path(raw) if raw.strip() else None, "a path"),
    str | None: (lambda raw: raw.strip() or None, "text"),
}
"""How the text of a setting is read, by the field's type, and what to say where it cannot be."""


def _parsed(name: str, kind: Any, raw: str) -> Any:
    parse, takes = _KINDS[kind]
    try:
        return parse(raw)
    except (KeyError, ValueError) as error:
        raise SettingsError(f"reading {_called(name)}: it takes {takes}, not {raw!r}") from error


def _called(name: str) -> str:
    return f"{_flag(name)} ({_variable(name)})"


_LONGEST_WINDOW_S = 3600.0
"""Our own bound: what was seen an hour ago says little of the traffic now."""

_MOST_INTERVALS = 120
"""Of one window: each round sums up all of them for each workload, on the loop that everything else waits for. Our own
bound: the longest window at the default interval."""


def _check_window(settings: OperatorSettings) -> None:
    called, window_s = _called("observe_window_s"), settings.observe_window_s
    if window_s > _LONGEST_WINDOW_S:
        raise SettingsError(f"reading {called}: it takes {_LONGEST_WINDOW_S:g} or less, not {window_s:g}")
    interval_s = settings.observe_interval_s
    if interval_s and window_s > _MOST_INTERVALS * interval_s:
        most_s = _MOST_INTERVALS * interval_s
        raise SettingsError(
            f"reading {called}: it takes {_MOST_INTERVALS} intervals of {interval_s:g} s or less, which is {most_s:g}, "
            f"not {window_s:g}: raise {_called('observe_interval_s')} as well"
        )


def _check(settings: OperatorSettings) -> None:
    """Refuse what no single value shows to be wrong."""
    at_least: dict[str, float] = {
        "workers": 1,
        "resync_s": 1,
        "drain_s": 0,
        "observe_interval_s": 0,
        "observe_window_s": 2 * settings.observe_interval_s,
        "health_port": 0,
        "metrics_port": 0,
        "max_concurrent_switches": 1,
    }
    for name, least in at_least.items():
        value = getattr(settings, name)
        if not least <= value < float("inf"):
            raise SettingsError(f"reading {_called(name)}: it takes {least:g} or more, not {value:g}")
    _check_window(settings)
    for name in ("health_port", "metrics_port"):
        if getattr(settings, name) > 65535:
            raise SettingsError(f"reading {_called(name)}: there is no port {getattr(settings, name)}")
    if not settings.lease_name:
        raise SettingsError(f"reading {_called('lease_name')}: a Lease needs a name")
    if not settings.node_access and settings.pools_file is None:
        raise SettingsError(
            f"without {_called('node_access')} no pool is known: name a file by {_called('pools_file')}"
        )
    try:
        _ = settings.lease_times
    except ValueError as error:
        raise SettingsError(f"reading {_called('lease_duration_s')} and its like: {error}") from error
