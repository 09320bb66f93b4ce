"""What the weights of a replica take of its accelerators.

Separate from `memory`, which adds them to what an engine needs beside them: they follow from the checkpoint and the
layout alone. How many bits a weight has once it is loaded is asked by the step times as well.
"""

from metainf.architecture import ModelArchitecture
from metainf.dtypes import DType
from metainf.layers import LayerGroup, Linear, Part
from metainf.predictors.contract import ReplicaSpec
from metainf.settings import SpeculationKind

__all__ = ["DRAFT_MODEL_RATIO", "loaded_bits_per_weight", "weight_bytes"]

DRAFT_MODEL_RATIO = 0.1
"""Weights of a separate draft model beside those of the model it drafts for; it is not described any further."""


def weight_bytes(replica: ReplicaSpec) -> float:
    """What the weights take on the fullest rank of the replica, with those of what drafts and of what sees, bytes."""
    architecture, layout = replica.architecture, replica.layout
    tp, pp, dp = layout.tensor_parallel, layout.pipeline_parallel, layout.data_parallel
    ep = tp * dp if layout.expert_parallel else 1
    total = architecture.weight_bytes_per_rank(tp, pp, ep)
    if dp > 1 and ep == 1:
        # Without expert parallelism vLLM cuts experts over all data-parallel ranks too, attention over `tp` alone.
        experts = _bytes_of(architecture, tp, 1, Part.EXPERT)
        total -= experts * (1.0 - 1.0 / dp) / pp
    if replica.settings.weight_dtype is DType.FP8:
        total -= _narrowed_bytes(replica, ep) / pp
    return total + _draft_bytes(replica) + _vision_bytes(replica)


def _vision_bytes(replica: ReplicaSpec) -> float:
    """Weights of what the model sees with, on a rank: cut like the language model, and here on every pipeline stage.

    Source: vLLM 0.32.0 vllm/config/multimodal.py, mm_encoder_tp_mode "weights". Never quantised while it is loaded.
    """
    architecture = replica.architecture
    if architecture.vision_tower is None:
        return 0.0
    width = architecture.dtype.bytes_per_value
    return architecture.vision_tower.parameters * width / replica.layout.tensor_parallel


def _bytes_of(architecture: ModelArchitecture, tp: int, ep: int, part: Part) -> float:
    return sum(
        group.count * linear.weight_bytes_per_rank(architecture.dtype, tp, ep)
        for group, linear in _linears(architecture)
        if linear.part is part
    )


def _narrowed_bytes(replica: ReplicaSpec, ep: int) -> float:
    """What FP8 while loading saves on a rank, all pipeline stages together."""
    architecture, layout = replica.architecture, replica.layout
    saved = 0.0
    for group, linear in _linears(architecture):
        bits = linear.storage.bits_per_weight
        ratio = 1.0 - loaded_bits_per_weight(linear, DType.FP8) / bits
        ranks = layout.tensor_parallel * (layout.data_parallel if linear.part is Part.EXPERT else 1)
        saved += ratio * group.count * linear.weight_bytes_per_rank(architecture.dtype, ranks, ep)
    return saved


def _linears(architecture: ModelArchitecture) -> list[tuple[LayerGroup, Linear]]:
    return [(group, linear) for group in architecture.layer_groups for linear in group.layer.linears]


def _draft_bytes(replica: ReplicaSpec) -> float:
    """Weights of what drafts, on a rank."""
    speculation, architecture = replica.settings.speculation, replica.architecture
    if speculation is None or speculation.kind is SpeculationKind.NGRAM:
        return 0.0
    tp = replica.layout.tensor_parallel
    if speculation.kind is SpeculationKind.MTP:
        return architecture.mtp_weight_bytes / tp
    if speculation.kind is SpeculationKind.DRAFT_MODEL:
        return DRAFT_MODEL_RATIO * architecture.weight_bytes / tp
    # EAGLE heads are one dense layer of the model's width with a table of reduced vocabulary; MoE models have the
    # same small head, so the count goes by the width: 16 x hidden^2 in 16 bits. Source: EAGLE-3, arXiv 2503.01840.
    return 2.0 * 16.0 * architecture.hidden_size**2 / tp


def loaded_bits_per_weight(linear: Linear, weight_dtype: DType | None) -> float:
    """Storage of one weight after loading: `weight_dtype` FP8 narrows what the checkpoint has in 16 bits or more.

    Source: vLLM docs features/quantization/fp8, online dynamic quantization: every Linear but the head.
    """
    stored = linear.storage.bits_per_weight
    if weight_dtype is DType.FP8 and linear.quantisable and stored >= 16.0:
        return 8.0
    return stored
