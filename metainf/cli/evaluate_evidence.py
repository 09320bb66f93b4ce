"""What `metainf evaluate` judges by and learns from: a corpus's tables, within the limits of its tasks.

Separate from the command, which says what is run on it.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metainf.corpus.task import TrafficKind
from metainf.errors import InvalidWorkloadError

if TYPE_CHECKING:
    from metainf.corpus.tables import Truth
    from metainf.corpus.task import Task
    from metainf.evaluation.outcomes import Evidence
    from metainf.selectors.contract import MethodTable

    Found = tuple[dict[TrafficKind, Evidence], list[MethodTable]]

__all__ = ["QUICK_TASKS", "check_worlds", "evidence_of", "thinned"]

QUICK_TASKS = 80
_ONE_AT_A_TIME = "static"
_LOAD_FEATURE = "load_requests"  # natural logarithm of the requests at once

Say = Callable[[str], None]


def check_worlds(args: argparse.Namespace) -> None:
    """Refuse worlds between which nothing can be told, before anything is read."""
    if not args.corpus.is_dir():
        raise InvalidWorkloadError(f"--corpus {args.corpus}: there is no such folder")
    tables: Any = import_module("metainf.corpus.tables")
    worlds = (args.world, args.train_world)
    if args.train_world is not None and args.train_world == args.world:
        raise InvalidWorkloadError(f"--train-world {args.train_world}: it must be another than --world")
    if args.train_world is not None and tables.OWN in worlds:
        raise InvalidWorkloadError(
            f"--train-world {args.train_world}: {tables.OWN} takes tasks of every world, so name two that are not"
        )


def evidence_of(args: argparse.Namespace, say: Say, *, simulated_by: str | None = None) -> "Found":
    """Of each kind that is asked for what is judged by and learnt from, and what was simulated of all its tasks.

    What is learnt from another world is all that it knows, whether or not the judging one knows it too.
    """
    judged = _loaded(args, args.world, simulated_by)
    taught = None if args.train_world is None else _loaded(args, args.train_world, simulated_by)
    found: dict[TrafficKind, Evidence] = {}
    for kind, truth in judged.items():
        if taught is not None and kind not in taught:
            say(f"{kind} is left out: {args.train_world} holds no tasks of it")
            continue
        found[kind] = _known(kind, truth, None if taught is None else taught[kind], args)
        limits = found[kind].limits
        if limits is not None and limits.left_out:
            gone = f"{limits.left_out} of {limits.tasks} tasks are left out"
            say(f"{kind}: {gone}: no method keeps every limit of theirs")
    if not found:
        raise InvalidWorkloadError(f"--train-world {args.train_world}: it holds no tasks of {' or '.join(judged)}")
    truths = [*judged.values(), *(taught or {}).values()]
    return found, [] if simulated_by is None else [truth.beside[simulated_by] for truth in truths]


def _loaded(args: argparse.Namespace, world: str | None, simulated_by: str | None) -> "Mapping[TrafficKind, Truth]":
    """One world by kind that is asked for: tasks that were simulated too where it says so, and few of them to try."""
    tables: Any = import_module("metainf.corpus.tables")
    others = [] if simulated_by is None else [simulated_by]
    truths = tables.load_truth(
        args.corpus,
        world=world,
        beside=others,
        also_in=others,
        most_tasks=args.most_tasks or (QUICK_TASKS if args.quick else None),
    )
    found = {kind: each for kind, each in truths.items() if not args.kind or str(kind) in args.kind}
    if not found:
        every = f" in all of {', '.join(filter(None, [world, *others]))}" if others else ""
        raise InvalidWorkloadError(
            f"--corpus {args.corpus}: it holds no tasks of {' or '.join(args.kind or ['any kind'])}{every}"
        )
    return found


def _known(kind: TrafficKind, truth: "Truth", taught: "Truth | None", args: argparse.Namespace) -> "Evidence":
    """What can be served within its limits, with one-at-a-time serving and sizes of batches, to a power of two."""
    outcomes: Any = import_module("metainf.evaluation.outcomes")
    prices: Any = import_module("metainf.evaluation.prices")
    tasks = truth.table.tasks
    static = tasks.methods.index(_ONE_AT_A_TIME) if _ONE_AT_A_TIME in tasks.methods else None
    sizes = None
    if kind is not TrafficKind.RATE and static is not None and _LOAD_FEATURE in tasks.feature_names:
        log_load = tasks.features[:, tasks.feature_names.index(_LOAD_FEATURE)]
        sizes = np.exp2(np.round(log_load / np.log(2.0)))
    evidence: Evidence = outcomes.Evidence(
        truth.table,
        price_usd_per_hour=prices.replica_prices(tasks, whole_replica=kind is not TrafficKind.RATE),
        batch_size=sizes,
        one_at_a_time=static,
        performance_by_seed=truth.by_seed,
        learnt=None if taught is None else _taught(args, taught),
    )
    return _limited(args, evidence, truth.tasks)


def thinned(evidence: "Evidence", most: int) -> "Evidence":
    """Evenly over all, in their order: what is judged, and what is learnt from another world."""
    if len(evidence) > most:
        evidence = evidence.rows(_evenly(len(evidence), most))
    if evidence.learnt is not None and len(evidence.learnt) > most:
        evidence = replace(evidence, learnt=evidence.learnt.rows(_evenly(len(evidence.learnt), most)))
    return evidence


def _evenly(count: int, most: int) -> Any:
    return np.linspace(0, count - 1, most).astype(np.intp)


def _limited(args: argparse.Namespace, evidence: "Evidence", tasks: "Sequence[Task]") -> "Evidence":
    """The evidence within the tasks' limits; unchanged where nobody says which tasks these are."""
    if not tasks:
        return evidence
    within: Any = import_module("metainf.evaluation.within_limits")
    found: Evidence = within.with_limits(evidence, tasks, _scores(args.corpus, args.world))
    return found


def _taught(args: argparse.Namespace, truth: "Truth") -> "MethodTable":
    """What the other world teaches, within limits by its own rows."""
    if not truth.tasks:
        return truth.table
    within: Any = import_module("metainf.evaluation.within_limits")
    found: MethodTable = within.taught_limits(truth.table, truth.tasks, _scores(args.corpus, args.train_world))
    return found


@lru_cache(maxsize=2)
def _scores(folder: Path, world: str | None) -> Any:
    """Score rows with the columns that limits need; each kind of traffic asks for them."""
    within: Any = import_module("metainf.evaluation.within_limits")
    measurements: Any = import_module("metainf.measurements")
    tables: Any = import_module("metainf.corpus.tables")
    rows = tables.load_rows(folder, world=world, purpose=measurements.Purpose.SCORE)
    return rows.select([*within.LIMIT_COLUMNS, "source", "purpose"])
