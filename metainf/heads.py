"""Heads that draft: for how long a context they draft at all.

Separate from `speculation`, which says what drafts are worth, and from the rules for settings, which know no traffic.

A head's config.json says for how many positions it was made; many say 2,048, for how long their training texts were.
vLLM's first model runner drafts for nobody in a step as long as one of its requests is longer. It is what runs before
0.29, and on CPUs. The second one has no such limit and gives heads as many positions as the model has: there drafts
only get worse beyond what their head was trained on, which `speculation` has. A figure that is larger promises nothing
of that, so it is read for the limit alone.
Source: vllm/v1/worker/gpu_model_runner.py, input_fits_in_drafter; vllm-project/vllm#49343 and #57964.
"""

from collections.abc import Mapping

from metainf.accelerators import Accelerator, Vendor
from metainf.conflicts import Conflict, ConflictReason
from metainf.engine_versions import EngineVersion, parse_engine_version
from metainf.settings import Speculation, SpeculationKind

__all__ = ["head_conflicts", "head_context_tokens"]

_SECOND_RUNNER = EngineVersion(0, 29)
_AS_STATED = (None, "default", "llama3")  # rotary scalings that leave the stated positions as they are


def head_context_tokens(config: Mapping[str, object]) -> int | None:
    """The positions that a head's config.json has; None where it does not say, or stretches them."""
    inner = config.get("transformer_layer_config")  # as vllm-project/speculators writes heads
    for fields in (config, inner):
        found = fields.get("max_position_embeddings") if isinstance(fields, Mapping) else None
        if isinstance(fields, Mapping) and isinstance(found, int) and not isinstance(found, bool) and found > 0:
            return None if _is_stretched(fields.get("rope_scaling")) else found
    return None


def _is_stretched(scaling: object) -> bool:
    return isinstance(scaling, Mapping) and scaling.get("rope_type", scaling.get("type")) not in _AS_STATED


def head_conflicts(
    speculation: Speculation | None,
    context_tokens: int | None,
    longest_tokens: float,
    accelerator: Accelerator,
    version: str,
) -> tuple[Conflict, ...]:
    """Why a head that was made for `context_tokens` is of no use for requests up to the longest; empty where it is."""
    if speculation is None or speculation.kind is not SpeculationKind.EAGLE or context_tokens is None:
        return ()
    first_runner = accelerator.vendor is Vendor.CPU or parse_engine_version(version) < _SECOND_RUNNER
    if not first_runner or longest_tokens + speculation.tokens <= context_tokens:
        return ()
    detail = (
        f"the head of model.draftModel is made for {context_tokens} tokens, requests reach {longest_tokens:.0f}: "
        f"vLLM {version} drafts for nobody in a step with such a one"
    )
    return (Conflict(ConflictReason.SPECULATION_CONFLICT, detail),)
