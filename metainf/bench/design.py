"""What a bench runs: models, methods, traffics under loads, repeats; all of it, or a balanced part.

Separate from the running. A **task** is a traffic under a load on a model; every method of the plan runs on every task
of it, so that methods are always compared on equal terms, and what is thinned are the tasks. A **run** is a method on
a task in one repeat.

How a part is chosen. Tasks are taken one by one; each time one whose pairs of levels (model with traffic, model with
load, traffic with load) have been taken least, and of equals one by the seed. So every level is there equally often,
and no pair is left out while another is there twice, as far as the numbers allow.

Why methods of one request at a time run once, not in every repeat, above 4 requests at once: their throughput does not
depend on how many wait, and such a run takes as long as many others.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby, product

import numpy as np

from metainf.bench.traffics import traffic_named
from metainf.corpus.task import TrafficKind
from metainf.errors import InvalidWorkloadError
from metainf.methods import method
from metainf.workload import BatchLoad, ConcurrencyLoad, Load, RateLoad

__all__ = ["BenchLoad", "BenchPlan", "BenchTask", "Run", "balanced", "crossed"]

_LETTERS = {TrafficKind.CONCURRENCY: "c", TrafficKind.BATCH: "b", TrafficKind.RATE: "r"}
_KINDS = {letter: kind for kind, letter in _LETTERS.items()}
_FEW_AT_ONCE = 4
_RATE_SECONDS = 30.0
_LEAST_REQUESTS = 6
_NO_DEADLINE_S = 1e6


@dataclass(frozen=True, slots=True, order=True)
class BenchLoad:
    """So many clients that wait for their answers, so many requests at once, or so many requests per second."""

    kind: TrafficKind
    size: float

    @classmethod
    def parse(cls, text: str) -> "BenchLoad":
        """A load as the command line has it: c16 clients, b64 in a batch, r2.5 requests per second.

        Raises
        ------
        InvalidWorkloadError
            It is none of these.
        """
        kind = _KINDS.get(text[:1])
        try:
            size = float(text[1:])
        except ValueError:
            kind = None
            size = 0.0
        if kind is None or not 0.0 < size < 1e6 or (kind is not TrafficKind.RATE and size != int(size)):
            raise InvalidWorkloadError(
                f"there is no load {text[:40]!r}: write c16 for clients, b64 for a batch, r2.5 for requests per second"
            )
        return cls(kind, size)

    @property
    def name(self) -> str:
        """As the command line has it."""
        return f"{_LETTERS[self.kind]}{self.size:g}"

    @property
    def requests(self) -> int:
        """Requests of one run: a batch's own, some seconds of a rate, and 6, 4 or 2 turns of clients."""
        if self.kind is TrafficKind.BATCH:
            return int(self.size)
        if self.kind is TrafficKind.RATE:
            return max(_LEAST_REQUESTS, round(self.size * _RATE_SECONDS))
        turns = 4 if self.size <= 4 else 2
        return max(_LEAST_REQUESTS, turns * int(self.size))

    @property
    def declared(self) -> Load:
        """The load of a workload."""
        match self.kind:
            case TrafficKind.BATCH:
                return BatchLoad(int(self.size), _NO_DEADLINE_S)
            case TrafficKind.CONCURRENCY:
                return ConcurrencyLoad(int(self.size))
            case TrafficKind.RATE:
                return RateLoad(self.size)


@dataclass(frozen=True, slots=True, order=True)
class BenchTask:
    """A traffic under a load on a model, by their names."""

    model: str
    traffic: str
    load: str

    @property
    def key(self) -> str:
        """A name of it."""
        return f"{self.model}/{self.traffic}/{self.load}"


@dataclass(frozen=True, slots=True, order=True)
class Run:
    """One method on one task in one repeat."""

    task: BenchTask
    method: str
    repeat: int

    @property
    def key(self) -> str:
        """A name of it, the same in every process."""
        return f"{self.task.key}/{self.method}/{self.repeat}"


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """All that is to run; `seed` decides the order within a block and the requests' lengths and chunks."""

    tasks: tuple[BenchTask, ...]
    methods: tuple[str, ...]
    repeats: int = 3
    seed: int = 0
    server_arguments: tuple[str, ...] = ()
    """What every server is told besides its method."""
    least_seconds: float = 0.0
    """A run sends its load again, with other requests, until it has been measured for so long."""

    def __post_init__(self) -> None:
        if not self.tasks or not self.methods or self.repeats < 1 or not self.least_seconds >= 0.0:
            raise InvalidWorkloadError("a bench needs at least one task, one method, one repeat and no seconds below 0")
        for task in self.tasks:
            traffic_named(task.traffic)
            BenchLoad.parse(task.load)

    @property
    def models(self) -> tuple[str, ...]:
        """In the order of the tasks."""
        return tuple(dict.fromkeys(task.model for task in self.tasks))

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs."""
        return tuple(run for model in self.models for block in self.blocks(model, self.methods) for run in block)

    def blocks(self, model: str, methods: Sequence[str]) -> Iterator[tuple[Run, ...]]:
        """The runs of a model under some methods, in blocks of one task and repeat, as they are to run.

        Methods follow each other within a block, so that what a machine does slowly over time meets all of them; their
        order within a block is drawn anew each time.
        """
        tasks = [task for task in self.tasks if task.model == model]
        for repeat, task in product(range(self.repeats), tasks):
            drawn = np.random.default_rng([self.seed, repeat, self.tasks.index(task)])
            order = [methods[place] for place in drawn.permutation(len(methods))]
            yield tuple(Run(task, name, repeat) for name in order if repeat < self._repeats_of(task, name))

    def seed_of(self, task: BenchTask, repeat: int, round_number: int = 0) -> int:
        """The seed of a block's requests in one of its rounds: the same for all its methods."""
        return 1 + repeat + self.repeats * (self.tasks.index(task) + len(self.tasks) * round_number)

    def _repeats_of(self, task: BenchTask, name: str) -> int:
        alone = method(name).settings.max_num_seqs == 1
        many = BenchLoad.parse(task.load).size > _FEW_AT_ONCE
        return 1 if alone and many else self.repeats


def crossed(models: Sequence[str], traffics: Sequence[str], loads: Sequence[str]) -> tuple[BenchTask, ...]:
    """Every traffic under every load on every model."""
    return tuple(BenchTask(*levels) for levels in product(models, traffics, loads))


def balanced(tasks: Sequence[BenchTask], per_model: int, seed: int) -> tuple[BenchTask, ...]:
    """So many tasks of each model, balanced over pairs of levels; by model, as they were given."""
    drawn = np.random.default_rng(seed)
    pairs: Counter[tuple[object, ...]] = Counter()
    levels: Counter[object] = Counter()
    left = {model: list(group) for model, group in groupby(sorted(tasks), key=lambda task: task.model)}
    taken: list[BenchTask] = []
    for _ in range(per_model):
        for candidates in left.values():
            if not candidates:
                continue
            # The rarest levels first, then the rarest pairs of them.
            worth = [(sum(levels[x] for x in _levels(t)), sum(pairs[p] for p in _pairs(t))) for t in candidates]
            best = [place for place, value in enumerate(worth) if value == min(worth)]
            task = candidates.pop(best[int(drawn.integers(len(best)))])
            levels.update(_levels(task))
            pairs.update(_pairs(task))
            taken.append(task)
    order = {task: place for place, task in enumerate(tasks)}
    return tuple(sorted(taken, key=lambda task: order[task]))


def _levels(task: BenchTask) -> list[object]:
    return [(task.model, task.traffic), (task.model, task.load), ("traffic", task.traffic), ("load", task.load)]


def _pairs(task: BenchTask) -> list[tuple[object, ...]]:
    return list(combinations((("model", task.model), ("traffic", task.traffic), ("load", task.load)), 2))
