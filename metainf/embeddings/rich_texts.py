"""Rich text templates: the same facts as sentences, with the words that engineers use for them.

Separate, as each style is. Sentences differ in words where tasks differ in kind (dense or experts, one device or many),
and in numbers where they differ in size.
"""

from metainf.embeddings.facts import DataFacts, HardwareFacts, ModelFacts
from metainf.embeddings.wording import amount, byte_size, count, joined, percent, plain, seconds, times
from metainf.layouts import Layout
from metainf.workload import BatchLoad, RateLoad, Repetitiveness, Slo, TokenLengths

__all__ = ["data_text", "hardware_text", "layout_words", "lengths_words", "load_words", "model_text", "promise_words"]

_REPETITIVENESS = {
    Repetitiveness.UNKNOWN: "Nothing is known of how much answers repeat the prompt.",
    Repetitiveness.LOW: "Answers are new text and hardly repeat the prompt.",
    Repetitiveness.MEDIUM: "Answers repeat parts of the prompt now and then.",
    Repetitiveness.HIGH: "Answers copy much of the prompt, as edited code or summaries do.",
}
_POISSON = (0.9, 1.1)  # coefficients of variation that are called random


def model_text(m: ModelFacts) -> str:
    """What the model is, layer by layer and byte by byte."""
    if m.experts:
        kind = (
            f"A mixture-of-experts language model with {amount(m.parameters)} parameters, of which one token meets "
            f"{amount(m.active_parameters)}: it goes to {m.experts_per_token} of {m.experts} experts"
        )
    else:
        kind = f"A dense language model with {amount(m.parameters)} parameters"
    drafts = (
        f"It has {count(m.mtp_layers, 'layer')} of its own for drafting several tokens ahead."
        if m.mtp_layers
        else "It has no layers for drafting tokens ahead."
    )
    return " ".join(
        [
            f"{kind}, in {m.layers} layers of width {m.hidden_size}.",
            _heads(m),
            _reach(m),
            f"Weights are in {m.weight_dtype} and take {byte_size(m.weight_bytes)}.",
            _cache(m),
            f"One token costs {times(m.flops_per_token, 'FLOP')} in matrices.",
            f"The context goes up to {m.max_context_tokens:,} tokens.",
            drafts,
        ]
    )


def _heads(m: ModelFacts) -> str:
    if not m.query_heads:
        return "It has no attention."
    if m.latent:
        return (
            f"{m.query_heads} query heads share one compressed latent vector per token (multi-head latent attention)."
        )
    if m.kv_heads == m.query_heads:
        return f"Each of {m.query_heads} heads has keys and values of its own (multi-head attention)."
    return (
        f"{m.query_heads} query heads share {count(m.kv_heads, 'key-value head')} of dimension {m.head_dim} "
        "(grouped-query attention)."
    )


def _reach(m: ModelFacts) -> str:
    kinds = [
        (m.full_layers, "attend to the whole context"),
        (m.windowed_layers, f"look back {m.window_tokens:,} tokens at most"),
        (m.sparse_layers, "attend to a few picked tokens (sparse attention)"),
        (m.recurrent_layers, "keep a recurrent state instead of a cache"),
    ]
    found = [(number, words) for number, words in kinds if number]
    if len(found) == 1 and found[0][0] == m.layers:
        return f"All layers {found[0][1]}."
    return f"Of its layers, {joined([f'{number} {words}' for number, words in found])}."


def _cache(m: ModelFacts) -> str:
    fixed = f", and each sequence takes {byte_size(m.state_bytes)} besides" if m.state_bytes else ""
    if not m.kv_bytes_per_token:
        return f"Its cache does not grow with the context{fixed}."
    return f"Each token of context takes {byte_size(m.kv_bytes_per_token)} of KV cache{fixed}."


def hardware_text(h: HardwareFacts) -> str:
    """What one accelerator can do, and how those of a replica are joined."""
    what = "A server processor" if h.is_cpu else "An accelerator"
    narrow = [name for name, speedup in (("FP8", h.fp8_speedup), ("FP4", h.fp4_speedup)) if speedup > 1]
    formats = (
        f"It multiplies {joined(narrow)} faster than 16 bits, by {joined([f'{s:.2g}x' for s in _speedups(h)])}."
        if narrow
        else "It has no units for FP8 or FP4: narrower weights are widened before they are multiplied."
    )
    return " ".join(
        [
            f"{what} with {byte_size(h.memory_bytes)} of {h.memory_type} memory, {times(h.bandwidth, 'B/s')} of memory "
            f"bandwidth and {times(h.flops, 'FLOP/s')} in 16 bits, drawing {plain(h.tdp_w)} W.",
            formats,
            _layout(h),
        ]
    )


def _speedups(h: HardwareFacts) -> list[float]:
    return [speedup for speedup in (h.fp8_speedup, h.fp4_speedup) if speedup > 1]


def _layout(h: HardwareFacts) -> str:
    if h.layout.accelerators == 1:
        return "One of them serves the model alone."
    joint = "a fast scale-up link" if h.fast_link else "PCIe alone"
    return (
        f"{h.layout.accelerators} of them serve the model together over {joint} with {times(h.link, 'B/s')} in each "
        f"direction: {layout_words(h.layout)}."
    )


def layout_words(layout: Layout) -> str:
    """How several accelerators share the work."""
    degrees = []
    if layout.tensor_parallel > 1:
        degrees.append(f"each layer is cut over {layout.tensor_parallel} of them (tensor parallelism)")
    if layout.pipeline_parallel > 1:
        degrees.append(f"the layers form {layout.pipeline_parallel} stages (pipeline parallelism)")
    if layout.data_parallel > 1:
        degrees.append(f"{layout.data_parallel} ranks have requests of their own (data parallelism)")
    if layout.expert_parallel:
        degrees.append("whole experts are spread over the ranks (expert parallelism)")
    return joined(degrees)


def data_text(d: DataFacts) -> str:
    """What requests look like, how they arrive and what they are promised."""
    t = d.traffic
    return " ".join(
        [
            load_words(d),
            f"Prompts have {lengths_words(t.input_tokens)}, answers {lengths_words(t.output_tokens)}.",
            _prefix(d),
            _REPETITIVENESS[t.repetitiveness],
            promise_words(d.slo),
        ]
    )


def load_words(d: DataFacts) -> str:
    """How requests come, as a sentence."""
    load, burstiness = d.traffic.load, d.traffic.burstiness
    if isinstance(load, RateLoad):
        low, high = _POISSON
        manner = "evenly spaced" if burstiness < low else "at random" if burstiness <= high else "in bursts"
        return f"Requests arrive {manner} at {plain(load.requests_per_second)} per second."
    if isinstance(load, BatchLoad):
        return f"A batch of {count(load.requests, 'request')} is processed offline, all sent at the start."
    return f"{count(load.concurrency, 'client')} each send a request as soon as the last one is answered."


def lengths_words(lengths: TokenLengths) -> str:
    """A length with its spread."""
    if lengths.p95_tokens is None:
        return f"always {count(lengths.mean_tokens, 'token')}"
    return f"{count(lengths.mean_tokens, 'token')} on average and {plain(lengths.p95_tokens)} at the 95th percentile"


def _prefix(d: DataFacts) -> str:
    prefix = d.traffic.shared_prefix
    if prefix is None or d.shared_share == 0:
        return "Prompts share nothing."
    same = "the same prefix" if prefix.distinct == 1 else f"one of {plain(prefix.distinct)} shared prefixes"
    who = "All requests" if prefix.ratio == 1 else f"{percent(prefix.ratio)} of the requests"
    return (
        f"{who} begin with {same} of {count(prefix.tokens, 'token')}, which is {percent(d.shared_share)} of all prompt "
        "tokens."
    )


def promise_words(slo: Slo) -> str:
    """The latency promises, as a sentence."""
    if not slo.bounds:
        return "No latency is promised: throughput is what counts."
    words = {"ttft": "the first token", "tpot": "each further token", "e2e": "the whole answer"}
    bounds = [
        f"{phrase} within {seconds(bound.bound_s)} ({bound.statistic})"
        for metric, phrase in words.items()
        for bound in sorted(slo.bounds, key=lambda each: each.statistic)
        if bound.metric == metric
    ]
    return f"The SLO asks for {joined(bounds)}."
