"""Chain-of-thought descriptions by a fixed program: the facts, and step by step what follows from them for serving.

Separate, as each style is. Where the papers prompt a language model for its reasoning, this derives it from the same
arithmetic that the roofline uses, so that it runs offline, says the same each time and can be checked. A text reasons
from its own facts alone: what follows from model and hardware together is for the selector to learn.
"""

from metainf.embeddings.facts import DataFacts, HardwareFacts, ModelFacts
from metainf.embeddings.rich_texts import layout_words, lengths_words, load_words, promise_words
from metainf.embeddings.wording import amount, byte_size, count, joined, percent, plain, seconds, times
from metainf.workload import BatchLoad, ConcurrencyLoad, LatencyMetric, RateLoad, Repetitiveness

__all__ = ["data_text", "hardware_text", "model_text"]

_REQUEST_TOKENS = 4096  # a request of middle length, to weigh caches against weights
_STRONG_BALANCE = 250.0  # FLOP/byte in 16 bits: H100 295 and B200 292 lie above, A100 153 below (accelerators.json)
_WEAK_BALANCE = 80.0  # H20 37
# From here on only words depend on the thresholds, no number does; they are assumed.
_LONG_PROMPTS = 8.0  # prompt over answer
_LONG_ANSWERS = 1.0
_MUCH_SHARED = 0.25  # of all prompt tokens
_WIDE_SPREAD = 2.0  # p95 over mean
_FEW = 8
_MANY = 64


def model_text(m: ModelFacts) -> str:
    """From size to what binds, then to what would help."""
    return " ".join(
        [
            f"Step 1, weights: {amount(m.parameters)} parameters in {m.weight_dtype} are {byte_size(m.weight_bytes)}.",
            _per_step(m),
            _cache(m),
            _reach(m),
            _conclusion(m),
        ]
    )


def _per_step(m: ModelFacts) -> str:
    if not m.experts:
        return (
            "A decode step reads all of them, whatever the batch; each token adds "
            f"{times(m.flops_per_token, 'FLOP')} of arithmetic."
        )
    alone = m.active_parameters / m.parameters
    return (
        f"A token meets {percent(alone)} of them, {m.experts_per_token} of {m.experts} experts; a larger batch reads "
        "more of them, up to all, so small batches share little. Each token adds "
        f"{times(m.flops_per_token, 'FLOP')} of arithmetic."
    )


def _cache(m: ModelFacts) -> str:
    request = m.kv_bytes_per_token * _REQUEST_TOKENS + m.state_bytes
    equal = m.weight_bytes / max(request, 1.0)
    size = "a small cache" if equal > 100 else "a large cache" if equal < 20 else "a cache of middle size"
    return (
        f"Step 2, cache: a request of {_REQUEST_TOKENS:,} tokens takes {byte_size(request)}, so {plain(equal)} of them "
        f"weigh as much as the weights: {size}."
    )


def _reach(m: ModelFacts) -> str:
    return f"Step 3, attention: {_attention(m)}; they go up to {m.max_context_tokens:,} tokens."


def _attention(m: ModelFacts) -> str:
    if m.full_layers == m.layers:
        how = "one compressed vector per token" if m.latent else f"{count(m.kv_heads, 'KV head')} in each layer"
        return f"every layer reads the whole context, {how}, so long contexts slow decoding"
    if m.recurrent_layers:
        return f"{percent(m.recurrent_layers / m.layers)} of the layers keep a state, so long contexts cost little"
    if m.sparse_layers:
        return "an indexer picks the tokens that are read, so long contexts cost little"
    share = percent(m.windowed_layers / m.layers)
    return f"{share} of the layers stop at {m.window_tokens:,} tokens, so long contexts cost less than they seem to"


def _conclusion(m: ModelFacts) -> str:
    ideas = []
    if m.weight_dtype.bytes_per_value >= 2:
        ideas.append("FP8 weights would halve what a step reads")
    else:
        ideas.append("weights are narrow already")
    if m.kv_bytes_per_token * _REQUEST_TOKENS * 100 > m.weight_bytes:
        ideas.append("an FP8 cache would leave room for more requests")
    ideas.append("its own layers can draft tokens" if m.mtp_layers else "drafts must come from elsewhere")
    return f"Therefore {joined(ideas)}."


def hardware_text(h: HardwareFacts) -> str:
    """From memory and bandwidth to what binds, then to formats and links."""
    balance, sweep_s = h.flops / h.bandwidth, h.memory_bytes / h.bandwidth
    together = h.layout.accelerators
    return " ".join(
        [
            f"Step 1, memory: {byte_size(h.memory_bytes)} {'each' if together > 1 else 'in all'}, read once in "
            f"{seconds(sweep_s)} at {times(h.bandwidth, 'B/s')}: when it is full, a decode step takes at least that.",
            f"Step 2, balance: {times(h.flops, 'FLOP/s')} in 16 bits are {plain(balance)} FLOP per byte, so about "
            f"{plain(balance)} tokens must share a step before arithmetic binds: {_strength(balance)}.",
            _formats(h),
            _links(h),
            _hardware_conclusion(h, balance),
        ]
    )


def _strength(balance: float) -> str:
    if balance > _STRONG_BALANCE:
        return "much arithmetic for its bandwidth, so batches can grow"
    return "little arithmetic for its bandwidth, so prompts are slow" if balance < _WEAK_BALANCE else "balanced"


def _formats(h: HardwareFacts) -> str:
    if h.fp8_speedup > 1:
        also = " and FP4 faster still" if h.fp4_speedup > h.fp8_speedup else ""
        return f"Step 3, formats: FP8 multiplies {h.fp8_speedup:.2g} times as fast as 16 bits{also}."
    return "Step 3, formats: FP8 has no units, so it saves memory and bandwidth but no arithmetic."


def _links(h: HardwareFacts) -> str:
    layout = h.layout
    if layout.accelerators == 1:
        return "Step 4, links: one device, nothing is exchanged."
    cost, together = "fast" if h.fast_link else "slow", byte_size(h.memory_bytes * layout.accelerators)
    return (
        f"Step 4, links: of {layout.accelerators} devices with {together} in all, "
        f"{layout_words(layout)}; what they exchange passes at {times(h.link, 'B/s')}, which is {cost}."
    )


def _hardware_conclusion(h: HardwareFacts, balance: float) -> str:
    ideas = [
        "speculation is nearly free at small batches"
        if balance > _WEAK_BALANCE
        else "verifying drafts costs arithmetic"
    ]
    ideas.append(
        "FP8 weights pay" if h.fp8_speedup > 1 else "FP8 weights pay at small batches or where memory is short"
    )
    if h.layout.accelerators > 1 and not h.fast_link and h.layout.tensor_parallel > 1:
        ideas.append("small steps pay for the link each time")
    return f"Therefore {joined(ideas)}."


def data_text(d: DataFacts) -> str:
    """From lengths and load to which phase matters, then to what could be saved."""
    return " ".join([_lengths(d), _load(d), _shared(d), _spread(d), _promises(d), _data_conclusion(d)])


def _ratio(d: DataFacts) -> float:
    return d.traffic.input_tokens.mean_tokens / d.traffic.output_tokens.mean_tokens


def _lengths(d: DataFacts) -> str:
    t, ratio = d.traffic, _ratio(d)
    phase = (
        "prompts dominate" if ratio > _LONG_PROMPTS else "decoding dominates" if ratio < _LONG_ANSWERS else "both count"
    )
    return (
        f"Step 1, lengths: prompts have {lengths_words(t.input_tokens)}, answers {lengths_words(t.output_tokens)}; "
        f"that is {plain(ratio)} prompt tokens for each token of an answer, so {phase}."
    )


def _load(d: DataFacts) -> str:
    load, t = d.traffic.load, d.traffic
    if isinstance(load, RateLoad):
        rate = load.requests_per_second
        asked = (
            f"{plain(rate * t.input_tokens.mean_tokens)} prompt and {plain(rate * t.output_tokens.mean_tokens)} answer"
        )
        return f"Step 2, load: {load_words(d)} That is {asked} tokens per second."
    number = load.concurrency if isinstance(load, ConcurrencyLoad) else load.requests
    size = "few" if number <= _FEW else "many" if number >= _MANY else "some"
    return f"Step 2, load: {load_words(d)} So {size} sequences can share a step."


def _shared(d: DataFacts) -> str:
    prefix = d.traffic.shared_prefix
    if prefix is None or d.shared_share == 0:
        return "Step 3, sharing: no prefix is shared, a prefix cache saves nothing."
    held = "one prefix is" if prefix.distinct == 1 else f"{plain(prefix.distinct)} prefixes are"
    it = "it" if prefix.distinct == 1 else "them"
    return (
        f"Step 3, sharing: {held} shared, of {count(prefix.tokens, 'token')}; a prefix cache that holds {it} saves "
        f"{percent(d.shared_share)} of the prompt tokens."
    )


def _spread(d: DataFacts) -> str:
    lengths = d.traffic.input_tokens
    ratio = 1.0 if lengths.p95_tokens is None else lengths.p95_tokens / lengths.mean_tokens
    bursts = d.traffic.burstiness > 1.1 and isinstance(d.traffic.load, RateLoad)
    first = "long prompts hold up short ones" if ratio >= _WIDE_SPREAD else "prompts are much alike"
    return f"Step 4, spread: {first}{', and bursts make queues' if bursts else ''}."


def _promises(d: DataFacts) -> str:
    return f"Step 5, promises: {promise_words(d.slo)}"


def _data_conclusion(d: DataFacts) -> str:
    load, repeats = d.traffic.load, d.traffic.repetitiveness
    ideas = []
    if d.shared_share >= _MUCH_SHARED and _ratio(d) >= _LONG_ANSWERS:
        ideas.append("prefix caching matters most")
    few = isinstance(load, ConcurrencyLoad) and load.concurrency <= _FEW
    if repeats is Repetitiveness.HIGH:
        ideas.append("drafts copied from the prompt would often be right")
    elif repeats is Repetitiveness.UNKNOWN:
        ideas.append("copied drafts are a gamble")
    else:
        ideas.append("copied drafts would mostly be wrong")
    metrics = {bound.metric for bound in d.slo.bounds}
    if LatencyMetric.TPOT in metrics:
        ideas.append("steps must stay short")
    elif isinstance(load, BatchLoad) or (not metrics and not few):
        ideas.append("large steps and large batches win")
    return f"Therefore {joined(ideas)}."
