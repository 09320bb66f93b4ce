"""What of a layer's tensors is alive at a time: the widest point of a step.

Separate because the layers of the language model and those of what it sees with are counted alike, and the memory of a
replica knows both while `architecture_vision` may know nothing of a replica.
"""

from metainf.layers import Mlp, MlpKind

__all__ = ["mlp_values", "values_alive"]

_HIDDEN_COPIES = 6.0
"""Hidden states alive at a time in one layer: residual, norm, attention in and out, MLP in and out."""


def values_alive(hidden_size: int, inside: float) -> float:
    """Values per token at the widest point of a layer; `inside` are those inside the MLP, on a rank."""
    return _HIDDEN_COPIES * hidden_size + inside


def mlp_values(mlp: Mlp | None) -> float:
    """Values per token inside an MLP: gate and up, their product; of experts, those of every chosen one."""
    if mlp is None:
        return 0.0
    inside = (3.0 if mlp.gated else 2.0) * mlp.intermediate_size
    if mlp.kind is MlpKind.DENSE:
        return inside
    return inside * mlp.experts_per_token + 3.0 * mlp.shared_intermediate_size
