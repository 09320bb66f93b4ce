"""What of an accelerator's memory is weights, what the engine needs to run, and what is left for the KV cache.

Separate because both "does it fit" (candidates) and "how many requests at a time" (the queueing model) ask, and
neither should have its own answer; so is the context that an engine is told, which the operator and the corpus must
choose alike. What the weights take is worked out in `weights`. Pure and cheap: no tensor is ever made.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from metainf.accelerators import Vendor
from metainf.activations import mlp_values, values_alive
from metainf.architecture import ModelArchitecture
from metainf.dtypes import DType
from metainf.layers import LatentAttention, RecurrentMixer
from metainf.predictors.contract import ReplicaSpec
from metainf.settings import SpeculationKind
from metainf.weights import DRAFT_MODEL_RATIO, weight_bytes

__all__ = ["MemoryPlan", "cache_of_its_own", "draft_state_bytes", "memory_plan", "offload_copies", "with_room_for"]

_MIB = 1 << 20
_GIB = 1 << 30

_RUNTIME_BYTES = 600 * _MIB
"""CUDA or HIP context, cuBLAS workspaces and allocator slack of one process.

Source: vLLM's startup log, "non_torch_memory" of 0.5 to 0.7 GiB on one H100 (vllm/worker/worker.py, memory profiling).
"""
_COLLECTIVE_BYTES = 400 * _MIB
"""Buffers of NCCL per rank with more than one. Source: aiconfigurator-core 0.12.0, systems/h100_sxm.yaml nccl_mem."""
_GRAPH_BASE_BYTES = 256 * _MIB
_GRAPH_LAYER_BYTES = 8 * _MIB
"""Captured graphs: 0.5 GiB for 32 layers, 0.9 GiB for 80. Source: vLLM logs "Graph capturing finished ... took"."""
_CPU_RUNTIME_BYTES = 2 * _GIB
"""Python, torch and the API server, where they share the memory with the model."""
_LOGIT_COPIES = 2.0
"""32-bit logits and their sorted or scaled copy. Source: vLLM v1 gpu_model_runner, _dummy_sampler_run."""
_LEAST_CONTEXT_TOKENS = 4096.0
"""No shorter context is told where the cache holds it: requests differ from what was declared. Assumed."""
_CONTEXT_GRANULE_TOKENS = 256
_CACHE_MARGIN_RATIO = 0.25
_MEMORY_MARGIN_RATIO = 0.02
"""What must be left beside the cache of the longest request, of that cache and of the memory: what is said here of
weights and activations is an estimate, and an engine that is a few MB short ends at start. Assumed."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Memory of the fullest rank of one replica, bytes, and what KV cache that leaves.

    Every data-parallel rank has a cache of its own, so tokens and sequences here are those of one such rank; without
    data parallelism they are those of the replica.
    """

    usable_bytes: float
    """What the engine may take: the accelerator's memory x gpu_memory_utilization."""
    weight_bytes: float
    reserve_bytes: float
    """Activations at the token budget, captured graphs, buffers and the runtime itself."""
    data_parallel: int
    max_model_len: int
    architecture: ModelArchitecture
    kv_cache_dtype: DType
    tensor_parallel: int
    pipeline_parallel: int
    block_tokens: int
    draft_kv_ratio: float = 0.0
    """KV cache of a drafting layer beside that of the model."""
    kv_asked_bytes: float | None = None
    """What the engine is told to take for the cache; None leaves it all that is left."""
    draft_state_bytes: float = 0.0
    """Recurrent states of one sequence beyond its own: one for each draft."""
    in_flight_tokens: int = 0
    """Most tokens that are scheduled and not settled: layers with a window hold them besides it."""

    @property
    def kv_bytes(self) -> float:
        """Left for the KV cache on the rank, or as much of it as is asked for; negative is a deficit."""
        left = self.usable_bytes - self.weight_bytes - self.reserve_bytes
        return left if self.kv_asked_bytes is None else min(left, self.kv_asked_bytes)

    @property
    def needed_bytes(self) -> float:
        """What the rank takes altogether: weights, reserve and the cache."""
        return self.weight_bytes + self.reserve_bytes + max(0.0, self.kv_bytes)

    @property
    def fits(self) -> bool:
        """Whether weights and reserve leave anything for the cache."""
        return self.kv_bytes > 0

    def sequence_bytes(self, context_tokens: float) -> float:
        """Cache of one sequence on the rank, whole blocks."""
        blocks = max(1, math.ceil(context_tokens / self.block_tokens))
        whole = blocks * self.block_tokens
        per_rank = self.architecture.kv_bytes(
            whole, self.kv_cache_dtype, tp=self.tensor_parallel, pp=self.pipeline_parallel
        )
        return per_rank * (1.0 + self.draft_kv_ratio) + self.draft_state_bytes

    def admission_bytes(self, context_tokens: float) -> float:
        """What the cache must hold for one sequence of this length to be let in, on the rank.

        More than it holds later where layers have a window: the steps under way may fill it beyond that. vLLM does not
        start with a max-model-len that this does not allow. Source: vLLM 0.32.0, vllm/v1/kv_cache_interface.py,
        SlidingWindowSpec.max_admission_blocks_per_request.
        """
        beyond = 0.0
        for group in self.architecture.layer_groups:
            mixer = group.layer.mixer
            window = None if mixer is None else mixer.cached_tokens_limit
            if mixer is None or window is None or isinstance(mixer, RecurrentMixer):
                continue
            held = min(context_tokens, window - 1 + self.in_flight_tokens) + self.block_tokens
            more = max(0.0, held - min(context_tokens, window))
            beyond += group.count * more * mixer.kv_bytes(1, self.kv_cache_dtype, self.tensor_parallel)
        return self.sequence_bytes(context_tokens) + beyond / self.pipeline_parallel

    def kv_sequences(self, context_tokens: float) -> float:
        """Sequences of this length that the cache holds at a time; below 1 not even one fits."""
        return max(0.0, self.kv_bytes) / self.sequence_bytes(context_tokens)

    @property
    def kv_capacity_tokens(self) -> float:
        """Tokens that the cache holds in sequences of `max_model_len`, as vLLM's own log counts them."""
        return self.kv_sequences(self.max_model_len) * self.max_model_len

    @property
    def replica_kv_capacity_tokens(self) -> float:
        """The same of all data-parallel ranks together."""
        return self.kv_capacity_tokens * self.data_parallel

    def missing_bytes(self, context_tokens: float) -> float:
        """Missing on each rank to hold one sequence of this length; 0 where it fits."""
        return max(0.0, self.admission_bytes(context_tokens) - self.kv_bytes)

    def margin_bytes(self, context_tokens: float) -> float:
        """What must be left on each rank beside one sequence of this length, for what is estimated."""
        return max(_CACHE_MARGIN_RATIO * self.sequence_bytes(context_tokens), _MEMORY_MARGIN_RATIO * self.usable_bytes)

    def short_bytes(self, context_tokens: float) -> float:
        """Missing on each rank to hold one sequence of this length and the margin beside it; 0 where they fit."""
        return max(0.0, self._wanted_bytes(context_tokens) - self.usable_bytes, self.missing_bytes(context_tokens))

    def shortfall(self, context_tokens: float) -> float:
        """(needed / usable) - 1 for one sequence of this length and the margin; 0 where they fit."""
        return self.short_bytes(context_tokens) / self.usable_bytes

    def explanation(self, context_tokens: float) -> str:
        """Why one sequence of this length does or does not fit, with the numbers."""
        cache, wanted = self.admission_bytes(context_tokens), self._wanted_bytes(context_tokens)
        asked = self.kv_asked_bytes
        if asked is not None and asked < cache and wanted <= self.usable_bytes:
            return (
                f"the cache of one {context_tokens:.0f}-token request needs {cache / _GIB:.2f} GiB on each "
                f"accelerator, kv-cache-memory-bytes allows {asked / _GIB:.2f}"
            )
        verdict = "fits in" if wanted <= self.usable_bytes else "exceeds"
        return (
            f"each accelerator needs {wanted / _GIB:.1f} GiB (weights {self.weight_bytes / _GIB:.1f}, runtime "
            f"{self.reserve_bytes / _GIB:.1f}, cache of one {context_tokens:.0f}-token request {cache / _GIB:.1f}, "
            f"margin {self.margin_bytes(context_tokens) / _GIB:.1f}), which {verdict} the usable "
            f"{self.usable_bytes / _GIB:.1f} GiB"
        )

    def _wanted_bytes(self, context_tokens: float) -> float:
        cache = self.admission_bytes(context_tokens) + self.margin_bytes(context_tokens)
        return self.weight_bytes + self.reserve_bytes + cache


def memory_plan(replica: ReplicaSpec) -> MemoryPlan:
    """The memory of the fullest rank of the replica."""
    layout, settings = replica.layout, replica.settings
    return MemoryPlan(
        usable_bytes=_memory_bytes(replica) * settings.gpu_memory_utilization,
        weight_bytes=weight_bytes(replica),
        reserve_bytes=_reserve_bytes(replica),
        data_parallel=layout.data_parallel,
        max_model_len=settings.max_model_len,
        architecture=replica.architecture,
        kv_cache_dtype=settings.kv_cache_dtype,
        tensor_parallel=layout.tensor_parallel,
        pipeline_parallel=layout.pipeline_parallel,
        block_tokens=settings.block_tokens,
        draft_kv_ratio=_draft_kv_ratio(replica),
        kv_asked_bytes=settings.kv_cache_memory_bytes,
        draft_state_bytes=draft_state_bytes(replica),
        in_flight_tokens=_in_flight_tokens(replica),
    )


def draft_state_bytes(replica: ReplicaSpec) -> float:
    """Recurrent states that drafting adds to each sequence, on a rank: one for each draft.

    Source: vLLM 0.32.0, vllm/model_executor/layers/mamba/abstract.py, num_speculative_blocks.
    """
    speculation, settings = replica.settings.speculation, replica.settings
    if speculation is None:
        return 0.0
    layout = replica.layout
    states = sum(
        group.count * group.layer.mixer.kv_bytes(1, settings.kv_cache_dtype, layout.tensor_parallel)
        for group in replica.architecture.layer_groups
        if isinstance(group.layer.mixer, RecurrentMixer)
    )
    return speculation.tokens * states / layout.pipeline_parallel


def offload_copies(replica: ReplicaSpec) -> int:
    """Parts that host memory behind the cache is cut into: one for each rank of an engine.

    Latent attention under tensor parallelism alone is the same on all of them, and kept once. Source: vLLM 0.32.0,
    vllm/distributed/kv_transfer/kv_connector/v1/offloading/config.py, `replicated_layout`.
    """
    layout, mixers = replica.layout, [group.layer.mixer for group in replica.architecture.layer_groups]
    latent = all(isinstance(mixer, LatentAttention) for mixer in mixers if mixer is not None)
    alone = layout.pipeline_parallel == 1 and layout.data_parallel == 1
    return 1 if latent and alone else layout.tensor_parallel * layout.pipeline_parallel


def _in_flight_tokens(replica: ReplicaSpec) -> int:
    """Source: vLLM 0.32.0, vllm/config/vllm.py, max_in_flight_tokens and max_concurrent_batches."""
    settings = replica.settings
    budget = settings.max_num_batched_tokens
    budget = budget if settings.chunked_prefill else max(budget, settings.max_model_len)
    return budget * (replica.layout.pipeline_parallel + (1 if settings.asynchronous_scheduling else 0))


def with_room_for(longest_tokens: float, replica: Callable[[int | None], ReplicaSpec]) -> ReplicaSpec | MemoryPlan:
    """The replica with the `--max-model-len` that its cache allows; where it holds no such request, its memory.

    The model's own context where half the cache holds it, otherwise what the traffic needs twice. vLLM refuses to start
    when one request of that length exceeds the cache, and our estimate of the cache is an estimate: hence the halves,
    and the margin beside the longest request. Each method is asked about by itself, since a head that drafts and larger
    steps leave less cache.

    Parameters
    ----------
    longest_tokens : float
        Prompt and answer of the longest request that counts, within the model's context.
    replica : function of max-model-len
        The same replica at that length, at None with the model's own.
    """
    own = replica(None)
    plan = memory_plan(own)
    wanted = min(max(2.0 * longest_tokens, _LEAST_CONTEXT_TOKENS), plan.max_model_len)
    if plan.short_bytes(longest_tokens) <= 0:
        cache_tokens = plan.kv_sequences(longest_tokens) * longest_tokens
        if plan.max_model_len <= cache_tokens / 2 and plan.missing_bytes(plan.max_model_len) <= 0:
            return own
        limit = _granular(min(wanted, 0.8 * cache_tokens), longest_tokens)
        while plan.missing_bytes(limit) > 0:  # ends at the longest request, which fits
            limit = _granular(0.9 * limit, longest_tokens)
        return own if limit == plan.max_model_len else replica(limit)
    if own.settings.chunked_prefill:
        return plan
    # Where prompts are not cut a step holds the whole context, so that a shorter one takes less memory.
    for limit in (_granular(wanted, longest_tokens), math.ceil(longest_tokens)):
        shorter = replica(limit)
        plan = memory_plan(shorter)
        if plan.short_bytes(limit) <= 0:
            return shorter
    return plan


def cache_of_its_own(plan: MemoryPlan, sequences: int, longest_tokens: float) -> int:
    """KV cache of a replica on a CPU, bytes: for all the sequences of a step, where the memory holds that much.

    Told to the engine and counted in the pod's memory. Left to itself vLLM takes 92 % of the pod's limit but for what
    one of its processes holds by then, and the others are killed for memory (vllm/v1/worker/cpu_worker.py,
    determine_available_memory); and a replica that asks for the whole memory of a node leaves no room for the next one
    in a switch.
    """
    wanted = math.ceil(sequences * plan.sequence_bytes(longest_tokens) / _MIB) * _MIB
    return int(min(plan.kv_bytes, wanted))


def _granular(tokens: float, least: float) -> int:
    return max(math.ceil(least), int(tokens) // _CONTEXT_GRANULE_TOKENS * _CONTEXT_GRANULE_TOKENS)


def _memory_bytes(replica: ReplicaSpec) -> float:
    memory = float(replica.accelerator.memory_bytes)
    cpu = replica.accelerator.cpu
    if cpu is None or replica.cpu_cores is None:
        return memory
    return memory * min(1.0, replica.cpu_cores / cpu.cores)


def _draft_kv_ratio(replica: ReplicaSpec) -> float:
    speculation = replica.settings.speculation
    if speculation is None or speculation.kind is SpeculationKind.NGRAM:
        return 0.0
    if speculation.kind is SpeculationKind.DRAFT_MODEL:
        return DRAFT_MODEL_RATIO
    return 1.0 / replica.architecture.layers


def _reserve_bytes(replica: ReplicaSpec) -> float:
    """Activations of the largest step, logits, graphs and the runtime, on a rank.

    vLLM measures this at start by running one step at the token budget; here the tensors that are alive at the
    widest point of a layer are added up. Falls with the token budget and with `max_num_seqs`.
    """
    architecture, layout, settings = replica.architecture, replica.layout, replica.settings
    width = architecture.dtype.bytes_per_value
    tokens = settings.max_num_batched_tokens
    inside = max(mlp_values(group.layer.mlp) for group in architecture.layer_groups) / layout.tensor_parallel
    activations = tokens * width * values_alive(architecture.hidden_size, inside)
    rows = min(settings.max_num_seqs, tokens)
    logits = _LOGIT_COPIES * rows * architecture.vocab_size * 4.0
    step = _with_images(replica, activations + logits)
    if replica.accelerator.vendor is Vendor.CPU:
        return step + _CPU_RUNTIME_BYTES
    graphs = _GRAPH_BASE_BYTES + _GRAPH_LAYER_BYTES * architecture.layers / layout.pipeline_parallel
    collectives = _COLLECTIVE_BYTES if layout.accelerators > 1 else 0
    return step + graphs + collectives + _RUNTIME_BYTES


def _with_images(replica: ReplicaSpec, text_bytes: float) -> float:
    """Memory of the largest step where the model sees: images first, then the text beside what came of the images.

    Source: vLLM 0.32.0 vllm/v1/worker/gpu_model_runner.py, profile_run.
    """
    architecture = replica.architecture
    tower = architecture.vision_tower
    if tower is None:
        return text_bytes
    width = architecture.dtype.bytes_per_value
    tokens = tower.tried_tokens(replica.settings.max_num_batched_tokens)
    images = width * tower.activation_values(tokens, replica.layout.tensor_parallel)
    return max(images, text_bytes) + width * tokens * architecture.hidden_size
