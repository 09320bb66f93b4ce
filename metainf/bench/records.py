"""What a bench writes down: each run with its outcome and figures, each server with what it really ran with.

Separate from the measurement table, which has the figures of all sources alike: here are also the conditions, and what
went wrong. Records are lines of JSON in a ledger, so every field is plain.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Self

from metainf.bench.design import BenchTask, Run
from metainf.errors import MetaInfError

__all__ = ["EngineFigures", "LoadFigures", "Outcome", "RecordError", "RunRecord", "ServerFacts", "ServerRecord"]


class RecordError(MetaInfError, ValueError):
    """A record that this version did not write."""


class Outcome(StrEnum):
    """How a run ended."""

    COMPLETED = "completed"
    INCOMPLETE = "incomplete"  # the server lives, some requests failed
    CRASHED = "crashed"  # the server ended
    NOT_STARTED = "not-started"  # the server did not come up
    TIMED_OUT = "timed-out"  # the load did not end in time
    LOAD_FAILED = "load-failed"  # the load generator itself failed


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """What `vllm bench serve` says of one run; latencies in seconds, as a client sees them, queueing included.

    Of a run of several rounds, requests and tokens are sums, `duration_s` is that of a round in the mean, and
    percentiles are means of the rounds' own.
    """

    completed: int
    failed: int
    duration_s: float
    input_tokens: int
    output_tokens: int
    requests_per_second: float
    output_tokens_per_second: float
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p95_s: float
    ttft_p99_s: float
    tpot_mean_s: float
    tpot_p50_s: float
    tpot_p95_s: float
    tpot_p99_s: float
    itl_p99_s: float
    e2e_mean_s: float
    e2e_p50_s: float
    e2e_p95_s: float
    e2e_p99_s: float
    rounds: int = 1


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """What the engine counted during one run."""

    prompt_tokens: float
    cached_tokens: float
    preemptions: float
    draft_tokens: float
    accepted_tokens: float


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server runs with, read back from it; None where it does not say."""

    version: str | None = None
    block_tokens: int | None = None
    kv_cache_tokens: int | None = None
    kv_cache_dtype: str | None = None
    dtype: str | None = None
    prefix_caching: bool | None = None
    chunked_prefill: bool | None = None
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    long_prefill_token_threshold: int | None = None
    max_model_len: int | None = None
    speculation: str | None = None
    """Its method, or `none`."""
    speculative_tokens: int | None = None
    performance_mode: str | None = None
    asynchronous_scheduling: bool | None = None
    stream_interval: int | None = None
    eager: bool | None = None
    compute_cores: int | None = None
    """Cores that the engine's threads are bound to, on a CPU."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run and how it went."""

    model: str
    traffic: str
    load: str
    method: str
    repeat: int
    outcome: Outcome
    detail: str
    server: int
    """Number of its server within the ledger."""
    started: str
    """UTC, ISO 8601."""
    wall_s: float
    machine_load: float
    """Runnable processes of the last minute, before the run: what else the machine did."""
    figures: LoadFigures | None = None
    engine: EngineFigures | None = None

    @property
    def run(self) -> Run:
        """Which run of the plan this is."""
        return Run(BenchTask(self.model, self.traffic, self.load), self.method, self.repeat)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"record": "run", **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The record of plain values.

        Raises
        ------
        RecordError
            They are not those of a run.
        """
        return cls(**_plain(cls, values, outcome=Outcome, figures=LoadFigures, engine=EngineFigures))


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """One start of a server."""

    number: int
    model: str
    method: str
    arguments: tuple[str, ...]
    """What it was told; empty where it was given by URL."""
    url: str
    started: str
    ready_s: float | None
    """From its start to its health; None where it never came, or was there already."""
    facts: ServerFacts
    differences: tuple[str, ...] = ()
    """Where it runs with something else than the method asks for."""
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"record": "server", **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The record of plain values.

        Raises
        ------
        RecordError
            They are not those of a server.
        """
        return cls(**_plain(cls, values, facts=ServerFacts, arguments=tuple, differences=tuple))


def _plain(cls: Any, values: Mapping[str, Any], **kinds: Any) -> dict[str, Any]:
    """The fields of a record, those of a kind of their own made into it."""
    known = {field.name for field in fields(cls)}
    given = {name: value for name, value in values.items() if name != "record"}
    try:
        for name, kind in kinds.items():
            value = given.get(name)
            if isinstance(value, Mapping):
                given[name] = kind(**value)
            elif value is not None:
                given[name] = kind(value)
        if set(given) != known:
            raise RecordError(f"a record with the fields {sorted(set(given) ^ known)} too many or missing")
    except (TypeError, ValueError) as error:
        raise RecordError(f"reading a record: {error}") from error
    return given
