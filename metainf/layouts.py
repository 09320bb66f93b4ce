"""How one replica spreads over accelerators.

Separate from methods: a layout decides how many accelerators a replica takes and so what it costs; a method does not.
"""

from dataclasses import dataclass
from functools import cache

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
        return _name(self.tensor_parallel, self.pipeline_parallel, self.data_parallel, self.expert_parallel)


@cache
def _name(tp: int, pp: int, dp: int, ep: bool) -> str:
    # Remembered: a decision over a thousand candidates asks for fifteen hundred names, of a dozen layouts.
    parts = [f"TP{tp}"] if tp > 1 or tp * pp * dp == 1 else []
    if pp > 1:
        parts.append(f"PP{pp}")
    if dp > 1:
        parts.append(f"DP{dp}")
    if ep:
        parts.append("EP")
    return "-".join(parts)
