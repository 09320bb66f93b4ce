"""Nodes as the API server has them, from the label sets in data/node_labels."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from metainf_operator.projections import NodeFacts, project_node

_FOLDER = Path(__file__).parent / "data" / "node_labels"


@cache
def _label_set(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text())
    return found


def node(
    name: str,
    like: str = "gfd-a100",
    *,
    price: str | None = None,
    annotations: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    taints: list[dict[str, str]] | None = None,
    ready: bool = True,
    cordoned: bool = False,
    allocatable: dict[str, str] | None = None,
) -> dict[str, Any]:
    notes = dict(annotations or {})
    if price is not None:
        notes["metainf.dev/cost-per-hour"] = price
    own = {"kubernetes.io/hostname": name, **_label_set(like)["labels"], **(labels or {})}
    return {
        "metadata": {"name": name, "labels": own, "annotations": notes},
        "spec": {"unschedulable": cordoned, "taints": taints or []},
        "status": {
            "allocatable": _label_set(like)["allocatable"] if allocatable is None else allocatable,
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
        },
    }


def facts(name: str, like: str = "gfd-a100", **fields: Any) -> NodeFacts:
    return project_node(node(name, like, **fields))
