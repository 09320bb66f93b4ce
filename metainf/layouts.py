"""How one replica spreads over accelerators.

Separate from methods: a layout decides how many accelerators a replica takes and so what it costs; a method does not.
"""

from dataclasses import dataclass

__all__ = ["Layout"]


@dataclass(frozen=True, slots=True, order=True)
class Layout:
    """Tensor, pipeline and data parallelism of one replica, and whether experts are spread over the ranks."""

    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    expert_parallel: bool = False

    @property
    def accelerators(self) -> int:
        """Accelerators of one replica."""
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel

    @property
    def name(self) -> str:
        """Short name, as `TP4`, `TP2-PP2` or `DP8-EP`."""
        parts = [f"TP{self.tensor_parallel}"] if self.tensor_parallel > 1 or self.accelerators == 1 else []
        if self.pipeline_parallel > 1:
            parts.append(f"PP{self.pipeline_parallel}")
        if self.data_parallel > 1:
            parts.append(f"DP{self.data_parallel}")
        if self.expert_parallel:
            parts.append("EP")
        return "-".join(parts)
