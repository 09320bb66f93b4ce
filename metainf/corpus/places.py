"""Where tasks can stand: a bundled model on accelerators in a layout that its weights and a cache fit into.

Separate from the workloads that are drawn for a place: this is facts alone, and the same for every seed.

CPUs are left out, since nothing true would be learnt of them. A world bends the roofline by ratios that were measured
on GPUs, and on a CPU over constants that are assumed. And a replica here would be a whole socket with all its memory,
where the operator's has a share of a node's cores and a cache of its own size (`metainf.candidates`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from metainf.accelerators import Accelerator, Vendor, catalogue
from metainf.architecture import ModelArchitecture
from metainf.known_models import known_model, known_model_config, known_model_ids
from metainf.layouts import Layout
from metainf.memory import memory_plan
from metainf.methods import applicable, effective_settings, layouts_for, portfolio
from metainf.predictors.contract import ReplicaSpec

__all__ = ["ACCELERATORS_PER_NODE", "MEASURED_ACCELERATORS", "Place", "distinct_models", "places_of"]

ACCELERATORS_PER_NODE = 8
_LEAST_CACHE_TOKENS = 4096.0
"""A place whose cache holds fewer tokens serves nothing that these tasks ask for."""

MEASURED_ACCELERATORS = (
    "A100-SXM-80GB",
    "H100-SXM-80GB",
    "H200-SXM-141GB",
    "L40S-PCIe-48GB",
    "B200-SXM-180GB",
    "B300-SXM-288GB",
    "GB200-186GB",
    "GB300-279GB",
    "RTX-PRO-6000-Server-PCIe-96GB",
)
"""Those of whose kernels there are tables of vLLM's times. Source: aiconfigurator-core 0.12.0, systems/data."""


@dataclass(frozen=True, slots=True)
class Place:
    """A model, an accelerator and a layout."""

    model: str
    accelerator: str
    layout: Layout
    cache_tokens: float
    """Tokens that the default's KV cache holds on the rank, in sequences of a few thousand."""
    max_context_tokens: int


@cache
def distinct_models() -> tuple[str, ...]:
    """One id of each bundled model whose config differs from all others, sorted."""
    by_config: dict[str, str] = {}
    for model_id in known_model_ids():
        by_config.setdefault(repr(known_model_config(model_id)), model_id)
    return tuple(by_config.values())


@cache
def places_of(model: str) -> tuple[Place, ...]:
    """All places of a model, by accelerator in the catalogue's order, smaller layouts first."""
    architecture = known_model(model)
    assert architecture is not None, f"{model} is bundled"
    devices = [device for device in catalogue() if device.vendor is not Vendor.CPU]
    return tuple(place for device in devices for place in _on(model, architecture, device))


def _on(model: str, architecture: ModelArchitecture, device: Accelerator) -> Sequence[Place]:
    default = portfolio()[0]
    found = []
    for layout in layouts_for(architecture, device, ACCELERATORS_PER_NODE):
        if applicable(default, architecture, device, layout):
            continue
        settings = effective_settings(default.settings, architecture=architecture, accelerator=device, layout=layout)
        plan = memory_plan(ReplicaSpec(architecture, device, layout, settings))
        tokens = plan.kv_sequences(_LEAST_CACHE_TOKENS) * _LEAST_CACHE_TOKENS
        if tokens >= _LEAST_CACHE_TOKENS:
            found.append(Place(model, device.name, layout, tokens, architecture.max_context_tokens))
    return found
