"""Looks at the driver again and again, and keeps the node's labels to what it says.

Separate from `__main__` so that a pass is a call: the probe, the door and the clock are arguments.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from metainf_operator.api_errors import ClusterError
from metainf_operator.cluster_api import JsonObject
from metainf_operator.node_facts.gpus import Fault, NoDriver, Outcome, Reading
from metainf_operator.node_facts.labels import MigStrategy, labels_of
from metainf_operator.node_facts.ownership import plan_labels

__all__ = ["GONE_AFTER_LOOKS", "Agent", "NodeDoor"]

logger = logging.getLogger("metainf_operator.node_facts")

GONE_AFTER_LOOKS = 3
"""A driver that is being replaced is away for a minute or two, and its GPUs are then the same: labels stay so long."""


class NodeDoor(Protocol):
    """What a pass asks of the API server."""

    def metadata(self, node: str) -> JsonObject:
        """The metadata of a node."""

    def apply_labels(self, node: str, labels: Mapping[str, str]) -> None:
        """Make these our labels of the node."""


@dataclass(eq=False)
class Agent:
    """What one node's process knows from pass to pass: only what it has said, and when it last looked at the node."""

    node: str
    probe: Callable[[], Outcome]
    door: NodeDoor
    clock: Callable[[], float]
    strategy: MigStrategy = MigStrategy.NONE
    resync_s: float = 300.0
    """Time after which the node is looked at although the driver says what it said before."""
    _said: dict[str, str] = field(default_factory=dict, init=False)
    _absent: int = field(default=0, init=False)
    _settled: Mapping[str, str] | None = field(default=None, init=False)
    _settled_at_s: float = field(default=0.0, init=False)

    def run_once(self) -> None:
        """One pass: look, decide, write what differs."""
        outcome = self.probe()
        self._absent = self._absent + 1 if isinstance(outcome, NoDriver) else 0
        self._report(outcome)
        wish = self._wish(outcome)
        if wish is None or (wish == self._settled and self.clock() < self._settled_at_s + self.resync_s):
            return
        try:
            self._write(wish)
        except ClusterError as error:
            self._settled = None
            self._say("cluster", logging.WARNING, "the node could not be labelled", error=str(error))
            return
        self._say("cluster", logging.DEBUG, "")
        self._settled, self._settled_at_s = wish, self.clock()

    def _wish(self, outcome: Outcome) -> Mapping[str, str] | None:
        """The labels that shall be; None where nothing can be told, and the node stays as it is."""
        if isinstance(outcome, Reading):
            return labels_of(outcome, self.strategy)
        return {} if self._absent >= GONE_AFTER_LOOKS else None

    def _write(self, wish: Mapping[str, str]) -> None:
        metadata = self.door.metadata(self.node)
        plan = plan_labels(wish, metadata)
        if plan.left:
            self._say(
                "left",
                logging.INFO,
                "labels of others are left alone",
                owners=", ".join(plan.others) or "GPU feature discovery",
                labels=", ".join(plan.left),
            )
        else:
            self._say("left", logging.DEBUG, "")
        if plan.apply is None:
            return
        self.door.apply_labels(self.node, plan.apply)
        before = metadata.get("labels") or {}
        changed = sorted(key for key, value in plan.apply.items() if before.get(key) != value)
        logger.info("the node is labelled", extra={"labels": len(plan.apply), "changed": ", ".join(changed)})

    def _report(self, outcome: Outcome) -> None:
        if isinstance(outcome, NoDriver):
            self._say("driver", logging.INFO, "no NVIDIA driver: waiting for one", detail=outcome.detail)
        elif isinstance(outcome, Fault):
            self._say("driver", logging.WARNING, "the driver does not answer; labels stay", detail=outcome.detail)
        else:
            products = ", ".join(sorted({gpu.name for gpu in outcome.gpus})) or "none"
            facts = {"gpus": len(outcome.gpus), "products": products, "driver": outcome.driver_version}
            self._say("driver", logging.INFO, "the driver answers", **facts)
            if outcome.lost:
                self._say("lost", logging.WARNING, "GPUs are lost, and not counted", lost="; ".join(outcome.lost))
            else:
                self._say("lost", logging.DEBUG, "")

    def _say(self, topic: str, level: int, message: str, **facts: object) -> None:
        """Log where it is news: a topic's last line is remembered, and an empty message forgets it."""
        said = f"{message} {sorted(facts.items())}" if message else ""
        if said != self._said.get(topic, "") and message:
            logger.log(level, message, extra=facts)
        self._said[topic] = said
