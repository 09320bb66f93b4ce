"""Starts the process of one node: `python -m metainf_operator.node_facts`.

Separate because it is the one place that takes signals and decides the exit code: 0 after SIGTERM, 2 for a wrong
setting. Nothing that a node or an API server does ends it: a process that starts anew every minute would tell less.
"""

import logging
import os
import signal
import sys
import time
from types import FrameType

from metainf_operator.logs import configure_logging
from metainf_operator.node_facts.agent import Agent
from metainf_operator.node_facts.probe import Probe
from metainf_operator.node_facts.settings import NodeFactsSettings, settings_from
from metainf_operator.settings import SettingsError

logger = logging.getLogger("metainf_operator.node_facts")


class _Stopped(BaseException):
    """A signal came: nothing is under way that must be finished, so whatever waits is broken off."""


def main() -> int:
    """Run until told to stop; the exit code."""
    # As process 1 of a container it would not even hear a signal that it has no handler for.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        settings = settings_from(sys.argv[1:], os.environ)
    except SettingsError as error:
        print(f"metainf_operator.node_facts: {error}", file=sys.stderr)
        return 2
    configure_logging(settings.log_level, settings.log_format)
    try:
        _run(settings)
    except _Stopped:
        logger.info("stopping; labels stay")
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the second one would interrupt the end itself
    raise _Stopped


def _run(settings: NodeFactsSettings) -> None:
    agent = Agent(
        settings.node_name,
        Probe(settings.driver_root, timeout_s=settings.read_timeout_s),
        settings.door,
        time.monotonic,
        settings.mig_strategy,
        settings.resync_s,
    )
    logger.info("started", extra={"node": settings.node_name, "mig_strategy": settings.mig_strategy.value})
    while True:
        agent.run_once()
        time.sleep(settings.interval_s)


if __name__ == "__main__":
    sys.exit(main())
