"""How one node's process is set up, from flags and environment variables.

Separate, and a frozen value, as the operator's own settings are; a flag wins over its variable, which is named
METAINF_NODE_FACTS_ and the flag.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metainf_operator.node_facts.door import Door, in_pod
from metainf_operator.node_facts.labels import MigStrategy
from metainf_operator.settings import LogFormat, LogLevel, SettingsError

__all__ = ["ENVIRONMENT_PREFIX", "NodeFactsSettings", "settings_from"]

ENVIRONMENT_PREFIX = "METAINF_NODE_FACTS_"


@dataclass(frozen=True, slots=True)
class NodeFactsSettings:
    """Every setting of the process."""

    node_name: str
    """The node that it runs on, and the only one that it may label."""
    door: Door
    interval_s: float
    """Between two looks at the driver."""
    resync_s: float
    """After which the node itself is looked at although the driver says what it said before."""
    read_timeout_s: float
    """A driver that took longer does not answer."""
    mig_strategy: MigStrategy
    driver_root: Path | None
    """Where the node's driver is mounted; None where a container runtime puts its libraries into place."""
    log_level: LogLevel
    log_format: LogFormat


_FLAGS: Mapping[str, tuple[str, str, Callable[[str], Any]]] = {
    "node-name": ("", "name of the node that this process runs on", str),
    "interval-s": ("60", "seconds between two looks at the driver", float),
    "resync-s": ("300", "seconds after which the node is looked at in any case", float),
    "read-timeout-s": ("30", "seconds that a look at the driver may take", float),
    "mig-strategy": ("none", "none, single or mixed: as the device plugin has it", MigStrategy),
    "driver-root": ("", "folder that the node's driver is mounted under; empty: the loader finds it", str),
    "api-server": ("", "outside of a pod: address of the API server", str),
    "token-file": ("", "outside of a pod: file with the service account's token", str),
    "ca-file": ("", "outside of a pod: file with the API server's certificate authority", str),
    "log-level": ("info", "least important lines that are still written", LogLevel),
    "log-format": ("json", "json or plain", LogFormat),
}
"""Default, what --help says, and how the text is read."""


def settings_from(arguments: Sequence[str], environment: Mapping[str, str]) -> NodeFactsSettings:
    """The settings that flags and variables give. SettingsError: one of them, or two together, cannot be."""
    given = vars(_parser().parse_args(list(arguments)))
    read = {name: _value(name, given[name.replace("-", "_")], environment) for name in _FLAGS}
    if not read["node-name"]:
        raise SettingsError("reading --node-name: it must name the node that this process runs on")
    for name in ("interval-s", "resync-s", "read-timeout-s"):
        if not 0 < read[name] < float("inf"):
            raise SettingsError(f"reading --{name}: it takes a number above 0, not {read[name]:g}")
    return NodeFactsSettings(
        node_name=read["node-name"],
        door=_door(read, environment),
        interval_s=read["interval-s"],
        resync_s=read["resync-s"],
        read_timeout_s=read["read-timeout-s"],
        mig_strategy=read["mig-strategy"],
        driver_root=Path(read["driver-root"]) if read["driver-root"] else None,
        log_level=read["log-level"],
        log_format=read["log-format"],
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m metainf_operator.node_facts",
        description="Labels this node with what the NVIDIA driver says of its GPUs.",
        allow_abbrev=False,
    )
    for name, (default, says, _) in _FLAGS.items():
        parser.add_argument(f"--{name}", metavar="VALUE", help=f"{says} [{_variable(name)}] (default: {default!r})")
    return parser


def _variable(name: str) -> str:
    return ENVIRONMENT_PREFIX + name.replace("-", "_").upper()


def _value(name: str, flag: str | None, environment: Mapping[str, str]) -> Any:
    default, says, parse = _FLAGS[name]
    raw = flag if flag is not None else environment.get(_variable(name), default)
    try:
        return parse(raw.strip())
    except ValueError as error:
        raise SettingsError(f"reading --{name} ({_variable(name)}): {says}; it is {raw!r}") from error


def _door(read: Mapping[str, Any], environment: Mapping[str, str]) -> Door:
    if read["api-server"] and read["token-file"]:
        ca_file = Path(read["ca-file"]) if read["ca-file"] else None
        return Door(read["api-server"], Path(read["token-file"]), ca_file)
    if read["api-server"] or read["token-file"]:
        raise SettingsError("reading --api-server and --token-file: outside of a pod both are needed")
    door = in_pod(environment)
    if door is None:
        raise SettingsError("this is no pod: name the API server by --api-server and --token-file")
    return door
