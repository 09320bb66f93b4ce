"""The state of a simulation as arrays of records, and its constants, in forms that compiled code can read and write.

Separate because every compiled part shares it: one record per request, per running sequence, per cache block and per
rank, so that what belongs together lies together in memory and keeps its name.
"""

from typing import Any, NamedTuple

import numpy as np

from metainf.simulator.timing import Tables

__all__ = [
    "BLOCK",
    "COHORT",
    "ENTRY",
    "FULL",
    "GROUP",
    "HOST_BLOCK",
    "LOAD",
    "NEVER",
    "NOTICE",
    "NO_KEY",
    "PIPELINE",
    "RANK",
    "REQUEST",
    "SEQUENCE",
    "STATE",
    "WINDOW",
    "Limits",
    "State",
]

NO_KEY = np.iinfo(np.int64).min
"""Key of a block whose content nobody can hit: not full yet, or evicted."""
NEVER = np.iinfo(np.int64).max // 4
"""A number of tokens that no sequence reaches."""

FULL, WINDOW, STATE = 0, 1, 2
"""Kinds of KV groups."""

REQUEST = np.dtype(
    [
        ("input", np.int64),
        ("output", np.int64),
        ("arrival_s", np.float64),
        ("sent_s", np.float64),
        ("first_s", np.float64),
        ("last_s", np.float64),
        ("hashes", np.int64),  # where its hashes begin
        ("shared", np.int64),  # leading blocks whose content may be another request's too
        ("cached", np.int64),
        ("preemptions", np.int64),
        ("next", np.int32),  # in the queue of its rank
        ("sequence", np.int32),  # -1 until it is first scheduled
        ("refused", np.bool_),
    ],
    align=True,
)

SEQUENCE = np.dtype(
    [
        ("known", np.int64),  # prompt and generated tokens
        ("computed", np.int64),  # tokens in the cache, or on their way in a step under way
        ("check", np.int64),  # up to fewer tokens than this nothing changes in its blocks
        ("prompt", np.int64),
        ("end", np.int64),  # prompt and all of the answer
        ("blocks", np.int64),  # entries of its block table
        ("registered", np.int64),  # of these, full and known to the prefix cache
        ("streamed", np.int64),  # tokens known when a message was last sent
        ("ready_s", np.float64),  # when its blocks are back from host memory
        ("round", np.int64),  # of its cohort, up to which known and computed count the tokens of a coasting one
        ("place", np.int64),  # among the running ones of its rank
        ("request", np.int32),  # -1: free
        ("coasting", np.bool_),
        ("epoch", np.int32),  # rises when it is preempted or freed: steps under way no longer count
    ],
    align=True,
)

BLOCK = np.dtype(
    [
        ("key", np.int64),  # >= 0: content that others can hit; < 0: content of one request; NO_KEY: none
        ("prev", np.int32),  # among the free blocks
        ("next", np.int32),
        ("twin_prev", np.int32),  # among blocks of equal content
        ("twin_next", np.int32),
        ("users", np.int32),
    ],
    align=True,
)

HOST_BLOCK = np.dtype([("key", np.int64), ("prev", np.int32), ("next", np.int32)], align=True)

RANK = np.dtype(
    [
        ("running", np.int64),
        ("waiting", np.int64),
        ("head", np.int32),  # of its queue
        ("tail", np.int32),
        ("free_sequences", np.int64),
        ("free", np.int64),  # blocks
        (
            "stuck",
            np.int32,
        ),  # request for which there were not enough, as long as nothing changed in its hits; -1: none
        ("stuck_hit", np.int64),  # its leading blocks that are cached
        ("stuck_idle", np.int64),  # of these, blocks that nobody uses
        ("stuck_low", np.int64),  # keys of its contents lie between these two
        ("stuck_high", np.int64),
        ("untouched", np.int64),  # the first of the blocks never used yet
        ("end", np.int64),  # behind the last of its blocks
        ("free_head", np.int32),
        ("free_tail", np.int32),
        ("peak", np.int64),
        ("due", np.int64),  # sequences whose full blocks are still to be registered
        ("coasting", np.bool_),  # whether `left` is up to date of those that are not under way
        ("host_used", np.int64),
        ("link_free_s", np.float64),  # when the last copy from host memory is done
        ("host_head", np.int32),  # least recently used
        ("host_tail", np.int32),
        ("busy_s", np.float64),
    ],
    align=True,
)

COHORT = np.dtype(
    [
        ("round", np.int64),  # its steps
        ("context", np.int64),  # cached tokens of its sequences together
        ("members", np.int64),
        ("coasted", np.int64),  # how many coast in its batch, the last one where none is under way
        ("flying", np.bool_),  # whether its batch is under way
    ],
    align=True,
)
"""Sequences of a rank that coast together."""

LOAD = np.dtype(
    [
        ("tokens", np.int64),
        ("sequences", np.int64),
        ("decodes", np.int64),
        ("context", np.int64),  # cached tokens of the decoding sequences together
        ("rows", np.int64),
        ("chunk_s", np.float64),
    ],
    align=True,
)
"""What a rank does in one step."""

ENTRY = np.dtype([("sequence", np.int32), ("epoch", np.int32), ("sampled", np.int32), ("before", np.int32)], align=True)
"""One sequence in a step under way, with how many coast before it in the same.

`sampled` is 0 for a prompt that goes on, otherwise 1 and its drafts.
"""

NOTICE = np.dtype([("request", np.int32), ("place", np.int32), ("first", np.bool_), ("last", np.bool_)], align=True)
"""A first or last token on its way to the client, with its place among the messages of its step."""

GROUP = np.dtype([("kind", np.int64), ("window", np.int64)], align=True)

PIPELINE = np.dtype(
    [
        ("oldest", np.int64),
        ("flying", np.int64),  # batches under way
        ("eager", np.bool_),  # something changed since it last found nothing to schedule
        ("fresh", np.bool_),  # its batch under way is prompts alone, after nothing
        ("wake_s", np.float64),  # when blocks are back from host memory
        ("notices", np.int64),
        ("messages", np.int64),
    ],
    align=True,
)
"""Ranks that step together, one or all of them."""


class Limits(NamedTuple):
    """The engine's numbers; those of `EngineModel`, and what follows from them."""

    max_num_seqs: int
    budget: int
    rank_blocks: int
    block_tokens: int
    max_model_len: int
    chunked: bool
    threshold: int
    caching: bool
    same_step_hits: bool
    table_groups: int
    state_groups: int
    state_blocks: int
    """Of each of these, and each sequence."""
    in_flight_tokens: int
    """Most tokens that are scheduled and not settled: windows hold them besides their own."""
    recomputed_hit_blocks: int
    windowed: bool
    plain: bool
    """One table of all tokens and nothing else."""
    counting: bool
    """Whether blocks are only counted: nobody can tell them apart while no content is shared and nobody preempted."""
    coasting: bool
    """Whether sequences can coast at all: one token a step, and no message that waits for others."""
    striding: bool
    """Whether steps in which all coast are taken one after the other: with one pipeline of one stage."""
    remembering: bool
    """Whether it is remembered what a request at the head of the queue was short of."""
    drafts: int
    acceptance: float
    ranks: int
    ranks_per_pipeline: int
    stages: int
    asynchronous: bool
    host_blocks: int
    host_block_s: float
    stream_interval: int
    contents: int
    hash_blocks: int
    block_hashes: int
    seed: int
    request_s: float
    request_token_s: float
    frontend_token_s: float
    clients: int


class State(NamedTuple):
    """One simulation: its numbers, its tables of step times and all of its arrays.

    `table` has shape (sequences, groups, blocks); the others are of the records of their names.
    """

    limits: Limits
    tables: Tables
    requests: Any
    sequences: Any
    ranks: Any
    blocks: Any
    groups: Any
    table: Any
    live_from: Any
    """Shape (sequences, groups): first block that a window group has not given back."""
    contents: Any
    """Identity of each of the requests' hashes, dense."""
    first: Any
    """Block that holds a content, by group and content; -1: none."""
    hits: Any
    """Shape (groups, blocks): the blocks that `hit_blocks` found last, of groups that see all tokens."""
    running: Any
    free_sequences: Any
    left: Any
    """Shape (ranks, sequences): steps that each running one can coast."""
    member: Any
    """Shape (ranks, sequences): cohort with which each running one coasts; -1: none."""
    cohorts: Any
    """Shape (ranks, batches under way)."""
    batch_cohorts: Any
    """Shape (ranks, batches under way): the cohort that each batch takes."""
    due_places: Any
    due_before: Any
    """Shape (ranks, sequences + 1): how many coast before each due one, and in all."""
    due: Any
    loads: Any
    entries: Any
    """Shape (ranks, batches under way, sequences)."""
    entry_counts: Any
    pipelines: Any
    done_s: Any
    """Shape (pipelines, batches under way)."""
    stage_free_s: Any
    """Shape (pipelines, stages)."""
    notices: Any
    host: Any
    host_of: Any
    """Host block that holds a content; -1: none."""
    host_table: Any
    """Shape (sequences, blocks): where a sequence's own contents may be in host memory."""
    totals: Any
    """Steps, computed tokens, next request to be sent, requests sent, whether counting was not enough, and how many of
    the sent ones have reached the engine: the others are on their way."""
    calm_s: Any
    """Shape (ranks,): what does not change while all coast."""
    clock: Any
    """Time at which the frontend is free, seconds."""
    way_s: Any
    """Shape (clients,): when the requests on their way reach the engine, as a ring."""
    way: Any
