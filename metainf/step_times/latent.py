"""What of an engine is true in a world besides its times: how large its cache is, and how good its drafter.

Separate so that a world without anything hidden can say so without the draws of those that have.
"""

from dataclasses import dataclass

__all__ = ["Latent"]


@dataclass(frozen=True, slots=True)
class Latent:
    """By how much a replica differs from what its memory plan and its drafter's kind say; by default not at all."""

    kv_ratio: float = 1.0
    """Size of the KV cache over what the plan leaves it."""
    acceptance_offset_logit: float = 0.0
    """Added to the logit of the probability that a draft is right."""
