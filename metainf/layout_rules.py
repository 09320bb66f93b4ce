"""Which layouts a model can have on the accelerators of one node, and which of them are worth a look.

Separate from `Layout`, a plain value: these rules need the model's shapes and the accelerator's links. Rejected:
every combination of degrees. Of 8 accelerators there are 20 products of TP, PP and DP; those left out here are slower
than one that is kept by the measurements that vLLM's documentation and blog report.
"""

from collections.abc import Iterable, Iterator

from metainf.accelerators import Accelerator, Vendor
from metainf.architecture import ModelArchitecture
from metainf.conflicts import Conflict, ConflictReason
from metainf.engine_defaults import uses_mla
from metainf.layers import Part
from metainf.layouts import Layout

__all__ = ["MOST_LAYOUTS", "layout_conflicts", "layouts_for"]

MOST_LAYOUTS = 10
_MOST_TENSOR_PARALLEL = 16
_MOST_TENSOR_PARALLEL_OVER_PCIE = 8


def layouts_for(
    architecture: ModelArchitecture, accelerator: Accelerator, accelerators_per_node: int
) -> tuple[Layout, ...]:
    """Valid layouts inside one node of so many accelerators, smaller first; at most MOST_LAYOUTS."""
    if accelerator.vendor is Vendor.CPU:
        return (Layout(),)
    candidates = dict.fromkeys(_candidates(architecture, accelerator, accelerators_per_node))
    valid = [c for c in candidates if not layout_conflicts(c, architecture, accelerator, accelerators_per_node)]
    return tuple(sorted(valid[:MOST_LAYOUTS], key=lambda layout: (layout.accelerators, layout)))


def _candidates(architecture: ModelArchitecture, accelerator: Accelerator, per_node: int) -> Iterator[Layout]:
    """Layouts to look at, the most useful first.

    Source: vLLM docs configuration/optimization and serving/parallelism_scaling: TP inside a node, PP where there is
    no fast link or the model does not divide; serving/data_parallel_deployment: DP attention with EP for MoE, most
    of all with latent attention, whose cache TP cannot split. EP starts at 4: with 2 it is slower (vLLM blog
    2026-07-23).

    Eight devices without a fast link are looked at as TP8 and as TP4 in two stages too: collectives are dear over PCIe,
    which the step times count, but a token waits for an eighth or a quarter of the weights to be read, without which a
    large model on small devices keeps no promise of a short time between tokens.
    """
    sizes = [n for n in (1, 2, 4, 8, 16, 32) if n <= per_node]
    tensor = [n for n in sizes if n <= _tensor_limit(accelerator)]
    yield from (Layout(tensor_parallel=n) for n in tensor)
    unlinked = [n for n in sizes if n > 1 and not accelerator.joins(n)]
    for n in unlinked:
        yield Layout(pipeline_parallel=n)
    for n in unlinked:
        for tp in (4, 2):
            if n > tp:
                yield Layout(tensor_parallel=tp, pipeline_parallel=n // tp)
    for n in tensor:
        if n > 1 and not architecture.supports_tensor_parallel(n):
            widest = max(t for t in tensor if t < n and architecture.supports_tensor_parallel(t))
            yield Layout(tensor_parallel=widest, pipeline_parallel=n // widest)
    if architecture.is_moe:
        yield from _expert_layouts(architecture, accelerator, sizes)


def _expert_layouts(architecture: ModelArchitecture, accelerator: Accelerator, sizes: list[int]) -> Iterator[Layout]:
    linked = [n for n in sizes if n > 1 and accelerator.joins(n)]
    latent = uses_mla(architecture)
    for n in reversed(linked[-2:]):
        if n >= 4 or latent:
            yield Layout(data_parallel=n, expert_parallel=True)
    for n in reversed(linked):
        if n >= 4:
            yield Layout(tensor_parallel=n, expert_parallel=True)
    if linked and linked[-1] >= 8:
        yield Layout(tensor_parallel=2, data_parallel=linked[-1] // 2, expert_parallel=True)


def _tensor_limit(accelerator: Accelerator) -> int:
    if accelerator.link is None:
        return _MOST_TENSOR_PARALLEL_OVER_PCIE
    return max(_MOST_TENSOR_PARALLEL_OVER_PCIE, min(accelerator.link.max_group, _MOST_TENSOR_PARALLEL))


def layout_conflicts(
    layout: Layout, architecture: ModelArchitecture, accelerator: Accelerator, accelerators_per_node: int
) -> tuple[Conflict, ...]:
    """Why this layout cannot run; empty where it can."""
    degrees = (layout.tensor_parallel, layout.pipeline_parallel, layout.data_parallel)
    if min(degrees) < 1:
        detail = f"TP, PP and DP must be at least 1, not {degrees[0]}, {degrees[1]}, {degrees[2]}"
        return (Conflict(ConflictReason.NOT_POSITIVE, detail),)
    return (
        *_node(layout, accelerator, accelerators_per_node),
        *_tensor(layout, architecture),
        *_stages(layout, architecture),
        *_experts(layout, architecture),
    )


def _node(layout: Layout, accelerator: Accelerator, per_node: int) -> Iterable[Conflict]:
    if layout.accelerators == 1:
        return
    if accelerator.vendor is Vendor.CPU:
        yield Conflict(ConflictReason.CPU_LIMIT, f"{layout.name}: a replica on {accelerator.name} is one process")
    elif layout.accelerators > per_node:
        detail = f"{layout.name} takes {layout.accelerators} accelerators and a node has {per_node}"
        yield Conflict(ConflictReason.NODE_TOO_SMALL, detail)
    if accelerator.partition is not None:
        # Source: NVIDIA MIG user guide: no peer-to-peer between MIG devices.
        yield Conflict(ConflictReason.NO_FAST_LINK, f"{layout.name}: MIG slices cannot reach each other")


def _tensor(layout: Layout, architecture: ModelArchitecture) -> Iterable[Conflict]:
    """Source: vLLM 0.32.0 vllm/config/model.py verify_with_parallel_config."""
    tp = layout.tensor_parallel
    mixers = [group.layer.mixer for group in architecture.layer_groups if group.layer.mixer is not None]
    if not all(mixer.heads_divide_over(tp) for mixer in mixers):
        detail = f"{architecture.name}: attention heads do not divide over {tp} ranks"
        yield Conflict(ConflictReason.HEADS_NOT_DIVISIBLE, detail)
    elif not architecture.supports_tensor_parallel(tp, ep=2 if layout.expert_parallel else 1):
        detail = f"{architecture.name}: a width or a quantisation block does not divide over {tp} ranks"
        yield Conflict(ConflictReason.WIDTH_NOT_DIVISIBLE, detail)


def _stages(layout: Layout, architecture: ModelArchitecture) -> Iterable[Conflict]:
    if layout.pipeline_parallel > architecture.layers:
        detail = f"{architecture.name} has {architecture.layers} layers for {layout.pipeline_parallel} stages"
        yield Conflict(ConflictReason.LAYERS_TOO_FEW, detail)


def _experts(layout: Layout, architecture: ModelArchitecture) -> Iterable[Conflict]:
    """Source: vLLM 0.32.0 vllm/config/parallel.py and model.py _verify_with_expert_parallelism.

    Of a dense model, data-parallel ranks are independent servers: replicas are that, with a failure domain each.
    Without expert parallelism the experts are cut over all ranks of TP and DP.
    """
    ranks = layout.tensor_parallel * layout.data_parallel
    if not architecture.is_moe:
        if layout.data_parallel > 1 or layout.expert_parallel:
            detail = f"{architecture.name} has no experts: use replicas instead of {layout.name}"
            yield Conflict(ConflictReason.NOT_MOE, detail)
        return
    experts = [g.layer.mlp.experts for g in architecture.layer_groups if g.layer.mlp and g.layer.mlp.experts]
    if layout.expert_parallel and not 1 < ranks <= min(experts, default=0):
        detail = f"{min(experts, default=0)} experts cannot be spread over {ranks} rank{'s' * (ranks != 1)}"
        yield Conflict(ConflictReason.EXPERTS_NOT_SPREAD, detail)
    if not layout.expert_parallel and layout.data_parallel > 1:
        cut = (x for g in architecture.layer_groups for x in g.layer.linears if x.part is Part.EXPERT)
        if not all(linear.divides_over(ranks) for linear in cut):
            detail = f"{architecture.name}: an expert's width does not divide over {ranks} ranks"
            yield Conflict(ConflictReason.WIDTH_NOT_DIVISIBLE, detail)
