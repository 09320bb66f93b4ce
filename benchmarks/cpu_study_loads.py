"""What a bench sent, as requests of the simulator: the same prompts, answers and prefixes in the same order.

Separate from the guesses, so that what a run met can be tested by itself. A bench sends few requests, gives prefixes
out in turn and empties the cache before each round: requests that are drawn from the declared traffic, or a loop that
goes on for long, meet other conditions than its rows did.
"""

import json
from functools import lru_cache

import numpy as np

from metainf.bench.design import BenchLoad, BenchTask
from metainf.bench.traffics import CHUNK_TOKENS, traffic_named
from metainf.corpus.task import TrafficKind
from metainf.simulator.contract import Requests

__all__ = ["sent_requests"]


@lru_cache(maxsize=4096)
def sent_requests(task: BenchTask, seed: int) -> Requests:
    """The requests of one round: of a batch all at once, of clients as a closed loop."""
    traffic, load = traffic_named(task.traffic), BenchLoad.parse(task.load)
    lines = [json.loads(line) for line in traffic.trace(load.requests, seed).splitlines()]
    # Chunks beyond the prefix are each prompt's own: to the simulator all that is not named is.
    shared = traffic.prefix_tokens // CHUNK_TOKENS
    chunks = [chunk for line in lines for chunk in line["hash_ids"][:shared]]
    return Requests(
        arrival_s=np.zeros(len(lines)),
        input_tokens=np.array([line["input_length"] for line in lines], dtype=np.int64),
        output_tokens=np.array([line["output_length"] for line in lines], dtype=np.int64),
        block_hashes=np.array(chunks, dtype=np.int64),
        block_offsets=np.arange(len(lines) + 1, dtype=np.int64) * shared,
        hash_block_tokens=CHUNK_TOKENS,
        clients=int(load.size) if load.kind is TrafficKind.CONCURRENCY else 0,
    )
