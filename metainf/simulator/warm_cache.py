"""What earlier traffic has left in the prefix cache, put there before the first request instead of being played.

Separate because it is no rule of vLLM's: a run is a few thousand requests, and a cache that holds thousands of
prefixes is in its steady state only after more than that.

What is left is that of one request after the other, each of which has one of D equally likely prefixes at a chance of
r. Seen backwards in time the last uses of the prefixes come in any order alike, and when k of them are met the next new
one is D / (r (D - k)) requests away in the mean. Each of these requests has left blocks of its own, which nobody asks
for again and which are as recent as it is. So the cache holds the most recent prefixes with such blocks between them,
as far as there is room, and the least recent go first. Blocks of requests before the oldest prefix are left out: they
would be taken next, as blocks that were never used are.

Of a prefix that is hit a window only holds the end, so only that is as recent as its use; whoever misses it computes
the rest as well, which lies there with the blocks of its own. Host memory has what was computed on the accelerator, in
the same order; that prefixes which are hit on the accelerator grow old there is left out.
"""

from typing import NamedTuple

import numpy as np

from metainf.simulator.contract import EarlierTraffic, EngineModel, FloatArray, IntArray
from metainf.simulator.records import NO_KEY, Limits, State

__all__ = ["WarmCache", "fill", "warm_cache"]

_STREAM = 0x57A12
"""Tells these random numbers from others of the same seed."""
_ROUNDS = 4  # how much is missed hangs on how much is kept, and the other way round


class WarmCache(NamedTuple):
    """Keys of the blocks of each rank, the least recently used first; NO_KEY where nobody asks for a content again."""

    device: tuple[IntArray, ...]
    host: tuple[IntArray, ...]

    @property
    def most_blocks(self) -> int:
        """Blocks on the fullest rank."""
        return max(len(keys) for keys in self.device)


class _Uses(NamedTuple):
    """The last use of each prefix, the most recent first."""

    contents: IntArray
    """Content of its first block, -1 where no request of the run asks for it."""
    requests: FloatArray
    """Requests since then in the mean, its own among them."""


def warm_cache(earlier: EarlierTraffic, engine: EngineModel, limits: Limits, hashes: IntArray) -> WarmCache:
    """What each rank's cache of `engine.kv_blocks` holds, and its host memory; `limits.seed` draws which prefixes.

    Parameters
    ----------
    hashes : array, rising
        The distinct hashes of the run's requests: their places are its contents.
    """
    leading = earlier.prefix_hashes * limits.hash_blocks // limits.block_hashes
    groups, blocks = _pattern(engine, leading)
    own_blocks = earlier.own_tokens / limits.block_tokens
    growing = limits.table_groups - limits.state_groups
    states = limits.state_groups * limits.state_blocks
    missed_blocks = earlier.prefix_ratio * (leading * growing - len(blocks))
    device, host = [], []
    for rank in range(limits.ranks):
        uses = _uses(earlier, limits, hashes, rank)
        places = (rank * limits.table_groups + groups) * limits.contents + (blocks + 1) * limits.block_hashes - 1
        keys = _keys(uses, places, own_blocks * growing + states, engine.kv_blocks, missed_blocks)
        if limits.rank_blocks + len(keys) <= engine.kv_blocks:
            keys = keys[keys != NO_KEY]  # nothing will be evicted, so that it does not matter what lies between
        device.append(keys)
        places = rank * limits.contents + np.arange(leading, 0, -1) * limits.block_hashes - 1
        host.append(_keys(uses, places, own_blocks, limits.host_blocks))
    return WarmCache(tuple(device), tuple(host))


def _pattern(engine: EngineModel, leading: int) -> tuple[IntArray, IntArray]:
    """Groups and blocks of a prefix that are kept, the most recent first: a sequence's last block goes back first."""
    groups, blocks = [], []
    for place, group in reversed(list(enumerate(engine.groups))):
        if group.state:
            continue
        need = max(1, -(-(group.window_tokens - 1) // engine.block_tokens)) if group.window_tokens > 0 else leading
        kept = np.arange(max(0, leading - need), leading)
        groups.append(np.full(len(kept), place))
        blocks.append(kept)
    none = np.zeros(0, dtype=np.int64)
    return np.concatenate([none, *groups]), np.concatenate([none, *blocks])


def _uses(earlier: EarlierTraffic, limits: Limits, hashes: IntArray, rank: int) -> _Uses:
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence((limits.seed, _STREAM, rank))))
    order = random.permutation(earlier.prefixes)
    new_ratio = earlier.prefix_ratio * (1.0 - np.arange(earlier.prefixes) / earlier.prefixes)
    first = order * earlier.prefix_hashes
    place = np.searchsorted(hashes, first)
    last = place + earlier.prefix_hashes - 1
    inside = np.flatnonzero(last < len(hashes))
    # Distinct and rising: where the first and the last are there and as far apart as they should be, so are all.
    whole = hashes[place[inside]] == first[inside]
    whole &= hashes[last[inside]] == first[inside] + earlier.prefix_hashes - 1
    contents = np.full(earlier.prefixes, -1, dtype=np.int64)
    contents[inside[whole]] = place[inside[whole]] * limits.hash_blocks
    return _Uses(contents, np.cumsum(1.0 / new_ratio))


def _keys(uses: _Uses, places: IntArray, own_blocks: float, room: int, missed_blocks: float = 0.0) -> IntArray:
    """Keys of what fits into so many blocks, the least recently used first.

    `places` are the keys of a prefix's blocks less its first content, the most recently used first; `own_blocks` is
    what each request leaves besides, and `missed_blocks` what it leaves beyond that where it misses.
    """
    size = len(places)
    ends = _ends(uses, size, own_blocks, room)
    for _ in range(_ROUNDS if missed_blocks > 0.0 else 0):
        missing = 1.0 - len(ends) / len(uses.contents)
        ends = _ends(uses, size, own_blocks + missing * missed_blocks, room)
    keys = np.full(ends[-1] if len(ends) else 0, NO_KEY, dtype=np.int64)
    known = np.flatnonzero(uses.contents[: len(ends)] >= 0)
    keys[(ends[known] - size)[:, None] + np.arange(size)] = uses.contents[known][:, None] + places
    return keys[::-1]


def _ends(uses: _Uses, size: int, own_blocks: float, room: int) -> IntArray:
    """Where each prefix that fits ends, counted in blocks from the most recent one."""
    most = min(len(uses.contents), room // size) if size else 0
    between = np.floor(uses.requests[:most] * own_blocks)
    ends = np.arange(1, most + 1) * size + between.astype(np.int64)
    return ends[: np.searchsorted(ends, room, side="right")]


def fill(state: State, warm: WarmCache) -> None:
    """Put the blocks into a state in which nothing was used yet."""
    for rank in range(state.limits.ranks):
        _fill_device(state, rank, warm.device[rank])
        _fill_host(state, rank, warm.host[rank])


def _fill_device(state: State, rank: int, keys: IntArray) -> None:
    if len(keys) == 0:
        return
    start = rank * state.limits.rank_blocks
    index = np.arange(start, start + len(keys))
    blocks = state.blocks[start : start + len(keys)]
    blocks["key"], blocks["users"] = keys, 0
    blocks["twin_prev"] = blocks["twin_next"] = -1
    _link(blocks, index)
    known = keys >= 0
    state.first[keys[known]] = index[known]
    pool = state.ranks[rank : rank + 1]
    pool["untouched"] = index[-1] + 1
    pool["free_head"], pool["free_tail"] = index[0], index[-1]


def _fill_host(state: State, rank: int, keys: IntArray) -> None:
    if len(keys) == 0:
        return
    start = rank * state.limits.host_blocks
    index = np.arange(start, start + len(keys))
    blocks = state.host[start : start + len(keys)]
    blocks["key"] = keys
    _link(blocks, index)
    known = keys >= 0
    state.host_of[keys[known]] = index[known]
    pool = state.ranks[rank : rank + 1]
    pool["host_used"] = len(keys)
    pool["host_head"], pool["host_tail"] = index[0], index[-1]


def _link(blocks: np.ndarray, index: IntArray) -> None:
    """One list in the order of their indices."""
    blocks["prev"], blocks["next"] = index - 1, index + 1
    blocks["prev"][0] = blocks["next"][-1] = -1
