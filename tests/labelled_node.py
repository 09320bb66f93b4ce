"""The labels of a node with whoever owns them, as an API server keeps them under server-side apply and updates.

Separate because both the plan and the passes of `metainf_operator.node_facts` are tested on it; e2e/test_node_facts.py
asks the real one the same.
"""

from collections.abc import Mapping
from typing import Any

from metainf_operator.api_errors import ClusterError, ConflictError
from metainf_operator.node_facts.ownership import FIELD_MANAGER

__all__ = ["LabelledNode"]


class LabelledNode:
    """One node; also the door of an `Agent`, which counts what is asked of it."""

    def __init__(self, labels: Mapping[str, str] = {}, manager: str = "kubelet") -> None:
        self.labels: dict[str, str] = {}
        self.owners: dict[str, set[str]] = {}
        self.annotations: dict[str, str] = {}
        self.reads = 0
        self.writes = 0
        self.fault: ClusterError | None = None
        self.update(labels, manager)

    def update(self, labels: Mapping[str, str], manager: str) -> None:
        """As PUT and merge patches do: only what changes becomes the writer's, and is nobody else's then."""
        for key, value in labels.items():
            if self.labels.get(key) != value:
                self.labels[key] = value
                self.owners[key] = {manager}

    def remove(self, *keys: str) -> None:
        """As whoever removes a label."""
        for key in keys:
            self.labels.pop(key, None)
            self.owners.pop(key, None)

    def apply(self, labels: Mapping[str, str], manager: str) -> None:
        """Server-side apply without force: equal values are owned together, others are a conflict."""
        for key, value in labels.items():
            if self.owners.get(key, set()) - {manager} and self.labels[key] != value:
                raise ConflictError(f'conflict with "{self.owners[key]}": .metadata.labels.{key}', code=409)
        for key in [key for key, names in self.owners.items() if manager in names and key not in labels]:
            self.owners[key].discard(manager)
            if not self.owners[key]:
                self.remove(key)
        for key, value in labels.items():
            self.labels[key] = value
            self.owners.setdefault(key, set()).add(manager)

    @property
    def mine(self) -> dict[str, str]:
        """Labels that our field manager owns."""
        return {key: value for key, value in self.labels.items() if FIELD_MANAGER in self.owners[key]}

    def body(self) -> dict[str, Any]:
        """The node's metadata."""
        managers = sorted({name for names in self.owners.values() for name in names})
        return {
            "name": "node-1",
            "labels": dict(self.labels),
            "annotations": dict(self.annotations),
            "managedFields": [
                {
                    "manager": manager,
                    "operation": "Apply" if manager == FIELD_MANAGER else "Update",
                    "fieldsType": "FieldsV1",
                    "fieldsV1": {
                        "f:metadata": {
                            "f:labels": {".": {}}
                            | {f"f:{key}": {} for key, names in self.owners.items() if manager in names}
                        }
                    },
                }
                for manager in managers
            ],
        }

    # what an Agent asks of its door

    def metadata(self, node: str) -> dict[str, Any]:
        self.reads += 1
        if self.fault is not None:
            raise self.fault
        return self.body()

    def apply_labels(self, node: str, labels: Mapping[str, str]) -> None:
        self.writes += 1
        self.apply(labels, FIELD_MANAGER)
