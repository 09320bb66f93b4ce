"""Every way in which a workload could be served: method x layout x pool x replicas, or why not.

Separate from `selection`: this decides what is possible, from facts alone; that decides what is best, from
predictions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache

from metainf.accelerators import Accelerator
from metainf.architecture import ModelArchitecture
from metainf.conflicts import Conflict
from metainf.errors import InvalidWorkloadError
from metainf.heads import head_conflicts
from metainf.layouts import Layout
from metainf.memory import MemoryPlan, cache_of_its_own, memory_plan, with_room_for
from metainf.methods import Method, applicable, effective_settings, layouts_for, portfolio
from metainf.placement import ReplicaRequest, Room, replica_grid, room_for, untolerated_taints
from metainf.pools import CapacityType, NodePool, NodeShape
from metainf.predictors.contract import ReplicaSpec
from metainf.rejections import Rejection, RejectionReason
from metainf.workload import (
    MOST_REPLICAS,
    LossyPolicy,
    MethodLimits,
    SpotPolicy,
    TokenLengths,
    Workload,
    longest_tokens,
)

__all__ = ["Candidate", "CandidateName", "Enumeration", "Option", "SizedOption", "enumerate_candidates"]

_MIB = 1 << 20
_GIB = 1 << 30
_SHOWN_POOLS = 3
_NODE_HEADROOM = 0.85  # share of a node's CPU and memory that replicas may ask for: daemons need the rest


@dataclass(frozen=True, slots=True, order=True)
class CandidateName:
    """A candidate as a person writes it: what a decision records and a pin asks for."""

    pool: str
    method: str
    layout: str
    replicas: int

    def __str__(self) -> str:
        return f"{self.replicas} x {self.method} {self.layout} on {self.pool}"


@dataclass(frozen=True, slots=True, eq=False)
class Option:
    """A candidate short of its number of replicas: method x layout x pool, and what one replica is."""

    pool: NodePool
    method: Method
    layout: Layout
    replica: ReplicaSpec
    request: ReplicaRequest
    room: Room

    def name(self, replicas: int) -> CandidateName:
        """Name of this option with so many replicas."""
        return CandidateName(self.pool.name, self.method.name, self.layout.name, replicas)


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """An option with its replicas and what they cost per hour, in the currency of the pool's price."""

    option: Option
    replicas: int
    cost_per_hour: Decimal

    @property
    def name(self) -> CandidateName:
        """The candidate as a person writes it."""
        return self.option.name(self.replicas)


@dataclass(frozen=True, slots=True, eq=False)
class SizedOption:
    """An option with the numbers of replicas that limits and capacity leave: `least` to `most`."""

    option: Option
    least: int
    most: int

    def with_replicas(self, count: int) -> Candidate:
        """The candidate of so many replicas, priced; it must fit."""
        return Candidate(self.option, count, self.option.room.cost_per_hour(count))

    def grid(self) -> tuple[Candidate, ...]:
        """The candidates on `placement.replica_grid`."""
        return tuple(self.with_replicas(n) for n in replica_grid(self.most, minimum=self.least))


@dataclass(frozen=True, slots=True)
class Enumeration:
    """What is possible, and every reason why something is not."""

    options: tuple[SizedOption, ...]
    rejections: tuple[Rejection, ...]

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The candidates on the grid of replicas."""
        return tuple(candidate for sized in self.options for candidate in sized.grid())


def enumerate_candidates(
    workload: Workload,
    architecture: ModelArchitecture,
    pools: Sequence[NodePool],
    *,
    engine_version: str,
    only: CandidateName | None = None,
) -> Enumeration:
    """All that the workload could run on over the pools, in the pools' order of names.

    `only` restricts to one candidate, for a pin.

    Raises
    ------
    InvalidWorkloadError
        The pin has more replicas than the workload's own limit.
    """
    most = workload.replicas.maximum
    if only is not None and most is not None and only.replicas > most:
        raise InvalidWorkloadError(
            f"the pin asks for {only.replicas} replicas and scaling.maxReplicas is {most}: raise it, or pin fewer"
        )
    options: list[SizedOption] = []
    rejections: list[Rejection] = []
    for pool in sorted(pools, key=lambda p: p.name):
        if only is not None and pool.name != only.pool:
            continue
        rejection = _reject_pool(workload, pool)
        if rejection is not None:
            rejections.append(rejection)
            continue
        possible, refused = _options(workload, architecture, pool, engine_version)
        rejections.extend(r for r in refused if _named(only, r.method, r.layout))
        for option in possible:
            if not _named(only, option.method.name, option.layout.name):
                continue
            sized = _sized(workload, option, None if only is None else only.replicas)
            if isinstance(sized, Rejection):
                rejections.append(sized)
            else:
                options.append(sized)
    return Enumeration(tuple(options), tuple(rejections))


def _named(only: CandidateName | None, method: str | None, layout: str | None) -> bool:
    return only is None or (method in (None, only.method) and layout in (None, only.layout))


def _reject_pool(workload: Workload, pool: NodePool) -> Rejection | None:
    limits = workload.placement

    def rejected(reason: RejectionReason, detail: str) -> Rejection:
        return Rejection(reason, pool.name, detail)

    if limits.pools and pool.name not in limits.pools:
        asked = sorted(limits.pools)
        named = ", ".join(asked[:_SHOWN_POOLS]) + (", ..." if len(asked) > _SHOWN_POOLS else "")
        return rejected(RejectionReason.POOL_NOT_ALLOWED, f"placement.pools does not name {pool.name} but {named}")
    if pool.capacity_type is CapacityType.SPOT and limits.spot is SpotPolicy.NEVER:
        return rejected(RejectionReason.SPOT_NOT_ALLOWED, f"{pool.name} is spot and placement.spot is Never")
    labels = dict(pool.labels)
    for key, value in limits.node_selector:
        if labels.get(key) != value:
            return rejected(RejectionReason.NODE_SELECTOR_MISMATCH, f"{pool.name} has no label {key}={value}")
    taints = untolerated_taints(pool, limits)
    if taints:
        return rejected(
            RejectionReason.TAINT_NOT_TOLERATED,
            f"{pool.name} has the taint {taints[0]}: add it to placement.tolerations",
        )
    if pool.price is None:
        return rejected(
            RejectionReason.PRICE_UNKNOWN,
            f"the price of {pool.name} is not known: set it in an AcceleratorPool or annotate its nodes with "
            "metainf.dev/cost-per-hour",
        )
    if pool.price.currency != workload.budget.currency:
        return rejected(
            RejectionReason.CURRENCY_DIFFERS,
            f"{pool.name} is priced in {pool.price.currency}, the budget is in {workload.budget.currency}",
        )
    return None


def _options(
    workload: Workload, architecture: ModelArchitecture, pool: NodePool, engine_version: str
) -> tuple[list[Option], list[Rejection]]:
    traffic = workload.traffic
    possible = _replicas_of_shape(
        architecture,
        pool.accelerator,
        pool.shape,
        pool.is_cpu,
        workload.accepted_lengths or (traffic.input_tokens, traffic.output_tokens),
        workload.methods,
        engine_version,
        workload.draft_model,
        workload.draft_context_tokens,
    )
    rooms = {request: room_for(pool, request) for request in {p.request for p in possible.options}}
    options = [Option(pool, p.method, p.layout, p.replica, p.request, rooms[p.request]) for p in possible.options]
    return options, list(_rejections_on(possible, pool.name))


@dataclass(frozen=True, slots=True, eq=False)
class _ShapeOption:
    method: Method
    layout: Layout
    replica: ReplicaSpec
    request: ReplicaRequest


@dataclass(frozen=True, slots=True, eq=False)
class _ShapeOptions:
    options: tuple[_ShapeOption, ...]
    rejections: tuple[Rejection, ...]


@lru_cache(maxsize=1024)
def _rejections_on(possible: _ShapeOptions, pool: str) -> tuple[Rejection, ...]:
    return tuple(replace(rejection, pool=pool) for rejection in possible.rejections)


@lru_cache(maxsize=1024)
def _replicas_of_shape(
    architecture: ModelArchitecture,
    accelerator: Accelerator,
    shape: NodeShape,
    is_cpu: bool,
    lengths: tuple[TokenLengths, TokenLengths],
    methods: MethodLimits,
    engine_version: str,
    draft_model: bool,
    head_tokens: int | None,
) -> _ShapeOptions:
    """What one replica can be on nodes of this shape. Cached: prices and free capacity do not come in."""
    options: list[_ShapeOption] = []
    rejections: list[Rejection] = []
    context = architecture.max_context_tokens
    stated = lengths[0].stated_tokens + lengths[1].stated_tokens
    if stated > context:
        detail = f"prompt and answer reach {stated:.0f} tokens as they are stated, the model's context is {context}"
        return _ShapeOptions((), (Rejection(RejectionReason.CONTEXT_TOO_LONG, "", detail),))
    # What lies beyond the stated figures is drawn from a curve; clients that know the model's context keep to it.
    longest = min(longest_tokens(*lengths), float(context))
    per_node = max(1, shape.accelerators)
    layouts = layouts_for(architecture, accelerator, per_node)
    for method in portfolio(engine_version):
        ruled_out = _method_ruled_out(method, methods)
        if ruled_out is not None:
            rejections.append(ruled_out)
            continue
        for layout in layouts:
            conflicts = applicable(method, architecture, accelerator, layout, engine_version, draft_model=draft_model)
            conflicts += head_conflicts(method.settings.speculation, head_tokens, longest, accelerator, engine_version)
            if conflicts:
                rejections.append(_not_applicable(method, layout, conflicts[0]))
                continue
            outcome = _one_replica(architecture, accelerator, shape, is_cpu, longest, method, layout, engine_version)
            if isinstance(outcome, Rejection):
                rejections.append(outcome)
            else:
                options.append(outcome)
    return _ShapeOptions(tuple(options), tuple(rejections))


def _method_ruled_out(method: Method, limits: MethodLimits) -> Rejection | None:
    names = {method.name, *method.aliases}
    denied = sorted((names | {str(t) for t in method.techniques}) & limits.deny)
    added = {str(t) for t in method.added}  # what every method does is allowed without being named
    if denied:
        detail = f"methods.deny names {denied[0]}"
    elif limits.allow and not names & limits.allow and not (added and added <= limits.allow):
        detail = f"methods.allow does not name {method.name}"
    elif method.experimental and not names & limits.allow:
        detail = f"{method.name} is experimental: name it in methods.allow to have it considered"
    elif method.lossy and limits.lossy is LossyPolicy.NEVER:
        return Rejection(
            RejectionReason.LOSSY_NOT_ALLOWED,
            "",
            f"{method.name} can change the model's answers and methods.lossy is Never",
            method=method.name,
        )
    else:
        return None
    return Rejection(RejectionReason.METHOD_NOT_ALLOWED, "", detail, method=method.name)


def _not_applicable(method: Method, layout: Layout, conflict: Conflict) -> Rejection:
    return Rejection(conflict.rejection_reason, "", conflict.detail, layout=layout.name, method=method.name)


def _one_replica(
    architecture: ModelArchitecture,
    accelerator: Accelerator,
    shape: NodeShape,
    is_cpu: bool,
    longest: float,
    method: Method,
    layout: Layout,
    engine_version: str,
) -> _ShapeOption | Rejection:
    """A replica of a method that is applicable, or that its memory is too small; `longest` is in tokens."""
    cpu_cores = max(1.0, float(int(shape.cpu_cores * _NODE_HEADROOM))) if is_cpu else None

    def replica(max_model_len: int | None) -> ReplicaSpec:
        settings = effective_settings(
            method.settings,
            architecture=architecture,
            accelerator=accelerator,
            layout=layout,
            version=engine_version,
            max_model_len=max_model_len,
        )
        spec = ReplicaSpec(architecture, accelerator, layout, settings, cpu_cores)
        if not is_cpu:
            return spec
        kv_cache_bytes = cache_of_its_own(memory_plan(spec), settings.max_num_seqs, longest)
        return replace(spec, settings=replace(settings, kv_cache_memory_bytes=kv_cache_bytes))

    found = with_room_for(longest, replica)
    if isinstance(found, MemoryPlan):
        return Rejection(
            RejectionReason.MEMORY_TOO_SMALL,
            "",
            f"{method.name} {layout.name} on {accelerator.name}: {found.explanation(longest)}",
            layout=layout.name,
            method=method.name,
            shortfall=found.shortfall(longest),
        )
    return _ShapeOption(method, layout, found, _request(found, shape, is_cpu))


def _request(replica: ReplicaSpec, shape: NodeShape, is_cpu: bool) -> ReplicaRequest:
    """CPU and host memory of one replica: what vLLM's processes need, inside the replica's share of the node."""
    if is_cpu:
        most = int(shape.memory_bytes * _NODE_HEADROOM)
        memory = min(most, math.ceil(memory_plan(replica).needed_bytes / _MIB) * _MIB)
        return ReplicaRequest(0, replica.cpu_cores or 1.0, memory)
    accelerators = replica.layout.accelerators
    share = _NODE_HEADROOM * accelerators / shape.accelerators
    # Source: vLLM "optimization and tuning", CPU resources: one core for the API server, one for the engine core,
    # one a GPU worker; twice that keeps tokenisation off the workers' cores.
    cpu = min(share * shape.cpu_cores, 2.0 * (2 + accelerators))
    # Weights stream through the page cache, so host memory holds the runtime (about 4 GiB a worker) and the offload.
    runtime = min(share * shape.memory_bytes, 8.0 * _GIB + 4.0 * _GIB * accelerators)
    memory = int(runtime) + replica.settings.kv_offload_bytes  # what is offloaded is needed whole: never clamped
    return ReplicaRequest(accelerators, round(cpu, 1), memory // (1 << 20) * (1 << 20))


def _sized(workload: Workload, option: Option, pinned_replicas: int | None) -> SizedOption | Rejection:
    """The option with the numbers of replicas that limits and capacity leave."""
    pool = option.pool
    room = option.room.replicas
    limits = workload.replicas
    least, most = limits.minimum, limits.maximum or MOST_REPLICAS
    if limits.fixed is not None:
        least, most = 1, min(limits.fixed, most)
    if pinned_replicas is not None:
        least = most = pinned_replicas
    limit = min(room, most)
    if limit >= least:
        return SizedOption(option, least, limit)
    reason = RejectionReason.NO_CAPACITY
    detail = f"{pool.name} has room for {room} of {least} replicas, each of {_amount(option)}"
    if option.room.per_added_node == 0:
        reason = RejectionReason.NODE_TOO_SMALL
        detail = f"a node of {pool.name} is smaller than one replica: {_amount(option)}"
    return Rejection(
        reason,
        pool.name,
        detail,
        layout=option.layout.name,
        method=option.method.name,
        replicas=least,
        shortfall=float(least - room),
    )


def _amount(option: Option) -> str:
    request = option.request
    parts = [f"{request.cpu_cores:g} CPU cores", f"{request.memory_bytes / _GIB:.0f} GiB of memory"]
    if request.accelerators:
        parts.insert(0, f"{request.accelerators} accelerator{'s' if request.accelerators > 1 else ''}")
    return ", ".join(parts[:-1]) + f" and {parts[-1]}"
