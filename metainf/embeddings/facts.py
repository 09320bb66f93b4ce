"""The facts that the generated texts state and reason from: one record each of model, hardware and traffic.

Separate from the texts so that all styles say the same things about a task, and none of them can name it: these records
hold no name of a model, a vendor or a device.
"""

from dataclasses import dataclass

from metainf.accelerators import Accelerator
from metainf.architecture import ModelArchitecture
from metainf.corpus.replicas import place_of
from metainf.corpus.task import Task
from metainf.dtypes import DType
from metainf.layers import LatentAttention, MixerKind, Mlp, RecurrentMixer, SoftmaxAttention
from metainf.layouts import Layout
from metainf.workload import Slo, Traffic

__all__ = ["DataFacts", "HardwareFacts", "ModelFacts", "data_facts", "hardware_facts", "model_facts"]

_LONG_TOKENS = 1 << 20


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model without its name."""

    parameters: float
    active_parameters: float
    layers: int
    hidden_size: int
    query_heads: int
    kv_heads: int
    head_dim: int
    latent: bool
    full_layers: int
    windowed_layers: int
    window_tokens: int
    sparse_layers: int
    recurrent_layers: int
    experts: int
    experts_per_token: int
    weight_bytes: float
    weight_dtype: DType
    kv_bytes_per_token: float
    state_bytes: float
    """Cache of one sequence that does not grow: full windows and recurrent states."""
    flops_per_token: float
    mtp_layers: int
    max_context_tokens: int


@dataclass(frozen=True, slots=True)
class HardwareFacts:
    """The accelerators of one replica without their name."""

    memory_bytes: float
    memory_type: str
    bandwidth: float
    flops: float
    fp8_speedup: float
    """1 where FP8 has to be widened."""
    fp4_speedup: float
    tdp_w: float
    is_cpu: bool
    link: float
    """Bytes per second per direction between the ranks; 0 for one accelerator."""
    fast_link: bool
    layout: Layout


@dataclass(frozen=True, slots=True)
class DataFacts:
    """The traffic, and what is promised about it."""

    traffic: Traffic
    slo: Slo

    @property
    def shared_share(self) -> float:
        """Share of all prompt tokens that are of shared prefixes."""
        prefix, mean = self.traffic.shared_prefix, self.traffic.input_tokens.mean_tokens
        return 0.0 if prefix is None else prefix.ratio * min(prefix.tokens, mean) / mean


def model_facts(task: Task) -> ModelFacts:
    """What is known of the task's model."""
    architecture, _ = place_of(task)
    layers = [(g.layer, g.count) for g in architecture.layer_groups]
    attention = [
        (layer.mixer, number) for layer, number in layers if isinstance(layer.mixer, SoftmaxAttention | LatentAttention)
    ]
    main = max(attention, key=lambda pair: pair[1])[0] if attention else None
    mlp = max((layer.mlp for layer, _ in layers if layer.mlp is not None), key=_experts, default=None)

    def number_of(*kinds: MixerKind) -> int:
        return sum(number for layer, number in layers if layer.mixer is not None and layer.mixer.kind in kinds)

    per_token = architecture.kv_bytes_per_token(architecture.kv_cache_dtype or architecture.dtype)
    return ModelFacts(
        parameters=float(architecture.parameters),
        active_parameters=float(architecture.active_parameters),
        layers=architecture.layers,
        hidden_size=architecture.hidden_size,
        query_heads=main.query_heads if main else 0,
        kv_heads=main.kv_heads if main else 0,
        head_dim=main.head_dim if main else 0,
        latent=isinstance(main, LatentAttention),
        full_layers=number_of(MixerKind.FULL),
        windowed_layers=number_of(MixerKind.SLIDING, MixerKind.CHUNKED),
        window_tokens=architecture.window_tokens() or 0,
        sparse_layers=number_of(MixerKind.SPARSE),
        recurrent_layers=sum(n for layer, n in layers if isinstance(layer.mixer, RecurrentMixer)),
        experts=mlp.experts if mlp else 0,
        experts_per_token=mlp.experts_per_token if mlp else 0,
        weight_bytes=architecture.weight_bytes,
        weight_dtype=architecture.storage.weight_dtype,
        kv_bytes_per_token=per_token,
        state_bytes=_state_bytes(architecture),
        flops_per_token=architecture.linear_flops_per_token(),
        mtp_layers=len(architecture.mtp_layers),
        max_context_tokens=architecture.max_context_tokens,
    )


def _experts(mlp: Mlp) -> int:
    return mlp.experts


def _state_bytes(architecture: ModelArchitecture) -> float:
    long = architecture.kv_bytes(_LONG_TOKENS, architecture.dtype)
    return max(0.0, long - _LONG_TOKENS * architecture.kv_bytes_per_token(architecture.dtype))


def hardware_facts(task: Task) -> HardwareFacts:
    """What is known of the accelerators under one replica of the task."""
    _, accelerator = place_of(task)
    together = task.layout.accelerators
    linked = accelerator.joins(together)
    link = accelerator.link.bytes_per_s_per_direction if accelerator.link is not None and linked else 0.0
    flops = max(accelerator.flops_for(d) or 0.0 for d in (DType.BF16, DType.FP16)) or accelerator.flops[DType.FP32]
    return HardwareFacts(
        memory_bytes=float(accelerator.memory_bytes),
        memory_type=accelerator.memory_type,
        bandwidth=accelerator.memory_bandwidth_bytes_per_s,
        flops=flops,
        fp8_speedup=_speedup(accelerator, DType.FP8, flops),
        fp4_speedup=_speedup(accelerator, DType.FP4, flops),
        tdp_w=accelerator.tdp_w,
        is_cpu=accelerator.cpu is not None,
        link=0.0 if together == 1 else link or accelerator.pcie_bytes_per_s or 0.0,
        fast_link=linked and together > 1,
        layout=task.layout,
    )


def _speedup(accelerator: Accelerator, dtype: DType, flops: float) -> float:
    return (accelerator.flops_for(dtype) or flops) / flops


def data_facts(task: Task) -> DataFacts:
    """What is known of the task's traffic."""
    return DataFacts(task.traffic, task.slo)
