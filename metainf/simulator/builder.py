"""From a replica to the limits of its scheduler: blocks that fit beside the weights, groups of layers, ranks, drafts.

Separate from the compiled engine, which knows no model and no accelerator, and from `memory`, which counts bytes.

Source of the groups: vLLM V1, vllm/v1/core/kv_cache_utils.py. Layers that look back alike are cut into groups of equal
size, the smallest number of layers of one kind (or the largest, where that is less than half more); a block is a
page of each layer of one group, so all groups draw on one pool. Pages of recurrent states are as large as the others':
the cache's block is made long enough for that.
"""

import math
from dataclasses import dataclass

from metainf.layers import Mixer, RecurrentMixer
from metainf.memory import MemoryPlan, memory_plan, offload_copies
from metainf.predictors.contract import ReplicaSpec
from metainf.simulator.contract import EngineModel, KvGroup
from metainf.speculation import READS_HIDDEN_STATES
from metainf.speculation import acceptance_ratio as expected_acceptance
from metainf.workload import Repetitiveness

__all__ = ["engine_model"]

_MAX_UNEVENNESS = 1.5  # vllm/v1/core/kv_cache_utils.py, _get_kv_cache_groups_uniform_page_size
_HOST_LINK_SHARE = 0.8
"""Of the datasheet's PCIe rate that copies of whole blocks reach: an assumption; packets and set-up take the rest."""


@dataclass(frozen=True, slots=True)
class _Pool:
    """How a cache is cut into blocks."""

    groups: tuple[KvGroup, ...]
    block_bytes: float


def engine_model(
    replica: ReplicaSpec,
    *,
    acceptance_ratio: float | None = None,
    repetitiveness: Repetitiveness = Repetitiveness.UNKNOWN,
    context_tokens: float | None = None,
    kv_ratio: float = 1.0,
) -> EngineModel:
    """The scheduler's limits on one rank of the replica.

    `acceptance_ratio` is that of speculative drafts; by default what is expected for text of this `repetitiveness` at
    such a context. `kv_ratio` is the true size of the cache over what the memory plan says of it; one request of the
    longest that the engine takes always fits where the plan says so, since it would not start otherwise, and a cache
    whose size is asked for has that size. Where the weights leave no memory the engine has no block, and the simulation
    refuses every request.
    """
    settings, layout = replica.settings, replica.layout
    plan = memory_plan(replica)
    pool = _pool(replica, plan)
    drafts = settings.speculation
    if acceptance_ratio is None:
        acceptance_ratio = 0.0 if drafts is None else expected_acceptance(drafts, repetitiveness, context_tokens)
    link = replica.accelerator.pcie_bytes_per_s
    return EngineModel(
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        kv_blocks=_kv_blocks(plan, pool, kv_ratio),
        block_tokens=settings.block_tokens,
        max_model_len=settings.max_model_len,
        chunked_prefill=settings.chunked_prefill,
        long_prefill_token_threshold=settings.long_prefill_token_threshold,
        prefix_caching=settings.prefix_caching,
        groups=pool.groups,
        draft_tokens=0 if drafts is None else drafts.tokens,
        acceptance_ratio=acceptance_ratio,
        data_parallel=layout.data_parallel,
        lock_step=layout.data_parallel > 1 and replica.architecture.is_moe,
        pipeline_stages=layout.pipeline_parallel,
        asynchronous=settings.asynchronous_scheduling,
        # --kv-offloading-size is the sum over the ranks of one engine (vllm/config/cache.py).
        offload_blocks=int(settings.kv_offload_bytes / offload_copies(replica) // pool.block_bytes),
        offload_block_s=0.0 if link is None else pool.block_bytes / (_HOST_LINK_SHARE * link),
        stream_interval=settings.stream_interval,
        recomputed_hit_blocks=1 if drafts is not None and drafts.kind in READS_HIDDEN_STATES else 0,
        # Blocks are registered while they are given out, so the next request of the same step finds them
        # (vllm/v1/core/kv_cache_manager.py, allocate_slots); a recurrent state is there only once it was computed.
        same_step_hits=not any(group.state for group in pool.groups),
    )


def _kv_blocks(plan: MemoryPlan, pool: _Pool, kv_ratio: float) -> int:
    """Blocks of one rank's cache; one is a placeholder for what windows have left behind.

    Source of the placeholder: vllm/v1/core/block_pool.py, null_block.
    """
    planned = max(0.0, plan.kv_bytes)
    found = planned
    if plan.kv_asked_bytes is None:
        longest = plan.admission_bytes(plan.max_model_len) + 2.0 * pool.block_bytes
        found = max(kv_ratio * planned, min(planned, longest))
    return max(0, int(found // pool.block_bytes) - 1)


def _pool(replica: ReplicaSpec, plan: MemoryPlan) -> _Pool:
    kinds = _layers_by_kind(replica)
    if len(kinds) <= 1:
        groups = tuple(kinds) or (KvGroup(),)
        block_bytes = plan.sequence_bytes(replica.settings.block_tokens) - plan.draft_state_bytes
        return _Pool(groups, max(1.0, block_bytes))
    counts = [layers for layers, _ in kinds.values()]
    size = max(counts) if max(counts) < _MAX_UNEVENNESS * min(counts) else min(counts)
    page_bytes = max(page for _, page in kinds.values())
    groups = tuple(kind for kind, (layers, _) in kinds.items() for _ in range(math.ceil(layers / size)))
    return _Pool(groups, size * page_bytes * (1.0 + plan.draft_kv_ratio))


def _layers_by_kind(replica: ReplicaSpec) -> dict[KvGroup, tuple[int, float]]:
    """Per kind of layer: how many the fullest pipeline stage has, and the largest page of one, bytes on a rank."""
    settings, layout = replica.settings, replica.layout
    found: dict[KvGroup, tuple[int, float]] = {}
    for group in replica.architecture.layer_groups:
        mixer = group.layer.mixer
        if mixer is None:
            continue
        kind = _kind(mixer)
        page_bytes = mixer.kv_bytes(settings.block_tokens, settings.kv_cache_dtype, layout.tensor_parallel)
        layers, largest = found.get(kind, (0, 0.0))
        found[kind] = (layers + group.count, max(largest, page_bytes))
    stages = layout.pipeline_parallel
    return {kind: (math.ceil(layers / stages), page) for kind, (layers, page) in found.items()}


def _kind(mixer: Mixer) -> KvGroup:
    if isinstance(mixer, RecurrentMixer):
        return KvGroup(state=True)
    return KvGroup(window_tokens=mixer.cached_tokens_limit or 0)
