"""Meta-features of the hardware under one replica: the device's datasheet, how many there are and how they are joined.

Separate from the model's figures: these are the same for every model on the same devices in the same layout.
"""

import math

from metainf.accelerators import Accelerator, Vendor
from metainf.cpu_shares import cpu_share
from metainf.dtypes import DType
from metainf.meta_features.schema import Feature
from metainf.predictors.contract import ReplicaSpec

__all__ = ["HARDWARE_FEATURES"]


def _peak(accelerator: Accelerator) -> float:
    """FLOP/s in 16 bits, or in 32 where the silicon has no narrower units."""
    found = (accelerator.flops_for(dtype) for dtype in (DType.BF16, DType.FP16, DType.FP32))
    return max(flops for flops in found if flops)


def _speed_up(accelerator: Accelerator, dtype: DType) -> float:
    """How much faster than in 16 bits it multiplies this format; 1 where it has to widen it first."""
    return (accelerator.flops_for(dtype) or _peak(accelerator)) / _peak(accelerator)


def _bandwidth(replica: ReplicaSpec) -> float:
    return replica.accelerator.memory_bandwidth_bytes_per_s * cpu_share(replica)


def _flops(replica: ReplicaSpec) -> float:
    return _peak(replica.accelerator) * cpu_share(replica)


def _kv_copies(replica: ReplicaSpec) -> float:
    """How often each KV head is stored because there are more tensor-parallel ranks than heads."""
    tp = replica.layout.tensor_parallel
    alone = replica.architecture.kv_heads_per_rank(1)
    return tp * replica.architecture.kv_heads_per_rank(tp) / alone if alone else 1.0


HARDWARE_FEATURES: tuple[Feature[ReplicaSpec], ...] = (
    Feature(
        "hw_memory_bytes",
        "ln(bytes)",
        "Memory of one accelerator.",
        lambda r: math.log(r.accelerator.memory_bytes * min(1.0, cpu_share(r))),
    ),
    Feature("hw_bandwidth", "ln(bytes/s)", "Memory bandwidth of one accelerator.", lambda r: math.log(_bandwidth(r))),
    Feature("hw_flops", "ln(FLOP/s)", "Dense peak of one accelerator in 16 bits.", lambda r: math.log(_flops(r))),
    Feature(
        "hw_fp8_speedup",
        "ln(1)",
        "Peak in FP8 over that in 16 bits; 0 where FP8 has to be widened.",
        lambda r: math.log(_speed_up(r.accelerator, DType.FP8)),
    ),
    Feature(
        "hw_fp4_speedup",
        "ln(1)",
        "Peak in FP4 over that in 16 bits; 0 where FP4 has to be widened.",
        lambda r: math.log(_speed_up(r.accelerator, DType.FP4)),
    ),
    Feature(
        "hw_balance",
        "ln(FLOP/byte)",
        "16-bit peak over memory bandwidth: the arithmetic intensity at which the two take equal time.",
        lambda r: math.log(_flops(r) / _bandwidth(r)),
    ),
    Feature(
        "hw_sweep_s",
        "ln(s)",
        "Time to read the whole memory once: bounds the step of a full accelerator.",
        lambda r: math.log(r.accelerator.memory_bytes * min(1.0, cpu_share(r)) / _bandwidth(r)),
    ),
    Feature("hw_tdp_w", "ln(W)", "Design power of one accelerator.", lambda r: math.log(r.accelerator.tdp_w)),
    Feature(
        "hw_pcie",
        "ln(bytes/s)",
        "To the host, per direction: what KV offloading goes through.",
        lambda r: math.log(r.accelerator.host_bytes_per_s),
    ),
    Feature(
        "hw_link",
        "ln(bytes/s)",
        "Between the ranks of the replica, per direction.",
        lambda r: math.log(r.accelerator.bytes_per_s_among(r.layout.accelerators)),
    ),
    Feature(
        "hw_scale_up_link",
        "1",
        "1 where one NVLink or its like joins as many accelerators as the replica has.",
        lambda r: float(r.accelerator.joins(r.layout.accelerators)),
    ),
    Feature("hw_is_cpu", "1", "1 where the model runs on the CPU itself.", lambda r: float(_is_cpu(r))),
    Feature(
        "layout_accelerators",
        "ln(accelerators)",
        "Accelerators of one replica.",
        lambda r: math.log(r.layout.accelerators),
    ),
    Feature(
        "layout_tensor_parallel",
        "ln(ranks)",
        "Ranks that share each layer.",
        lambda r: math.log(r.layout.tensor_parallel),
    ),
    Feature(
        "layout_pipeline_parallel",
        "ln(stages)",
        "Stages, one after the other.",
        lambda r: math.log(r.layout.pipeline_parallel),
    ),
    Feature(
        "layout_data_parallel",
        "ln(ranks)",
        "Ranks with requests and caches of their own.",
        lambda r: math.log(r.layout.data_parallel),
    ),
    Feature(
        "layout_expert_parallel",
        "1",
        "1 where whole experts are spread over the ranks.",
        lambda r: float(r.layout.expert_parallel),
    ),
    Feature(
        "layout_kv_copies",
        "ln(copies)",
        "How often a KV head is stored since there are more ranks than heads.",
        lambda r: math.log(_kv_copies(r)),
    ),
)


def _is_cpu(replica: ReplicaSpec) -> bool:
    return replica.accelerator.vendor is Vendor.CPU
