"""Number formats of weights, activations and the KV cache.

Separate because a model has them, an accelerator has a speed for each of them, and neither should import the other.
"""

from enum import StrEnum

__all__ = ["DType"]


class DType(StrEnum):
    """A number format that weights, the KV cache or matrix units work in."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    FP8 = "fp8"
    INT8 = "int8"
    FP4 = "fp4"
    INT4 = "int4"

    @property
    def bytes_per_value(self) -> float:
        """Storage of one value, without the scales that a quantised format adds."""
        return _BYTES_PER_VALUE[self]


_BYTES_PER_VALUE = {
    DType.FP32: 4.0,
    DType.BF16: 2.0,
    DType.FP16: 2.0,
    DType.FP8: 1.0,
    DType.INT8: 1.0,
    DType.FP4: 0.5,
    DType.INT4: 0.5,
}
