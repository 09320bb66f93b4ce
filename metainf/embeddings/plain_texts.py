"""Basic descriptors as text: a fixed list of facts in a fixed order, nothing said about what they mean.

Separate, as each style is: this is the papers' plainest one, against which the richer ones are judged.
"""

from metainf.embeddings.facts import DataFacts, HardwareFacts, ModelFacts
from metainf.embeddings.wording import amount, byte_size, plain, seconds, times
from metainf.workload import BatchLoad, RateLoad, TokenLengths

__all__ = ["data_text", "hardware_text", "model_text"]


def model_text(m: ModelFacts) -> str:
    """Size, shape and format of the model."""
    facts = [
        f"parameters: {amount(m.parameters)}",
        f"active parameters: {amount(m.active_parameters)}",
        f"layers: {m.layers}",
        f"hidden size: {m.hidden_size}",
        f"query heads: {m.query_heads}",
        f"KV heads: {m.kv_heads}",
        f"experts: {m.experts}",
        f"experts per token: {m.experts_per_token}",
        f"weight format: {m.weight_dtype}",
        f"weights: {byte_size(m.weight_bytes)}",
        f"KV cache per token: {byte_size(m.kv_bytes_per_token)}",
        f"context: {m.max_context_tokens:,} tokens",
    ]
    return "Model. " + "; ".join(facts) + "."


def hardware_text(h: HardwareFacts) -> str:
    """Datasheet of one accelerator, and the layout."""
    layout = h.layout
    facts = [
        f"accelerators: {layout.accelerators}",
        f"memory: {byte_size(h.memory_bytes)} {h.memory_type}",
        f"bandwidth: {times(h.bandwidth, 'B/s')}",
        f"16-bit compute: {times(h.flops, 'FLOP/s')}",
        f"power: {plain(h.tdp_w)} W",
        f"tensor parallel: {layout.tensor_parallel}",
        f"pipeline parallel: {layout.pipeline_parallel}",
        f"data parallel: {layout.data_parallel}",
        f"expert parallel: {'yes' if layout.expert_parallel else 'no'}",
    ]
    return "Hardware. " + "; ".join(facts) + "."


def data_text(d: DataFacts) -> str:
    """Lengths, load and promises."""
    t, prefix = d.traffic, d.traffic.shared_prefix
    facts = [
        _lengths("prompt", t.input_tokens),
        _lengths("answer", t.output_tokens),
        _load(d),
        f"burstiness: {plain(t.burstiness)}",
        f"repetitiveness: {t.repetitiveness.lower()}",
        "shared prefix: none"
        if prefix is None
        else f"shared prefix: {prefix.tokens} tokens, ratio {plain(prefix.ratio)}, {prefix.distinct} distinct",
        *(f"{b.metric} {b.statistic}: {seconds(b.bound_s)}" for b in d.slo.bounds),
    ]
    return "Traffic. " + "; ".join(facts) + "."


def _lengths(what: str, lengths: TokenLengths) -> str:
    spread = "" if lengths.p95_tokens is None else f", p95 {plain(lengths.p95_tokens)}"
    return f"{what}: mean {plain(lengths.mean_tokens)}{spread} tokens"


def _load(d: DataFacts) -> str:
    load = d.traffic.load
    if isinstance(load, RateLoad):
        return f"rate: {plain(load.requests_per_second)} requests/s"
    if isinstance(load, BatchLoad):
        return f"batch: {plain(load.requests)} requests"
    return f"clients: {plain(load.concurrency)}"
