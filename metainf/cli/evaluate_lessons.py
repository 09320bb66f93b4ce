"""What `metainf evaluate` lets what ships learn from: a corpus's rows, of which tables hold performance alone.

Separate from the command, which joins what is judged, and from its evidence, which all other selectors learn from.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from metainf.errors import InvalidWorkloadError
from metainf.selectors.catalogue import SELECTORS

__all__ = ["LessonsOf", "add_arguments", "check_arguments", "parameters", "remarks"]

_LANES = 6000
_FOLDS = 3
_QUICK = {"trees": 40, "folds": 2}


@dataclass(frozen=True, slots=True)
class LessonsOf:
    """A corpus's lessons, which are read when they are first called for: rows are too large to be sent to processes."""

    folder: Path
    world: str | None
    digest: str
    """Of the corpus."""

    @property
    def identity(self) -> str:
        """What they are, for who keeps what was learnt from them."""
        return f"{self.digest} of {self.world}"

    def __call__(self) -> Any:
        """The lessons; read once in each process."""
        return _lessons(self.folder, self.world)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What of this can be asked for."""
    shipped = ", ".join(name for name, entry in SELECTORS.items() if entry.from_rows)
    parser.add_argument(
        "--most-lanes",
        metavar="N",
        type=int,
        default=_LANES,
        help=f"(task, method) pairs that {shipped} is trained on in each fold, evenly over its tasks; its time grows "
        f"with them, about two hours of one core for all splits of rates with the default (default: {_LANES:,})",
    )
    parser.add_argument(
        "--all-tasks-lanes",
        metavar="N",
        type=int,
        help="the same for the rows over all tasks, with the folds of `metainf train`; 0: as many pairs as it takes, "
        "up to an hour of one core for each fold, which is what aims are held against (default: as --most-lanes)",
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what cannot be, before anything runs.

    Raises
    ------
    InvalidWorkloadError
        There would be nothing to train on.
    """
    if args.most_lanes < 1:
        raise InvalidWorkloadError(f"--most-lanes must be at least 1, got {args.most_lanes}")
    if args.all_tasks_lanes is not None and args.all_tasks_lanes < 0:
        raise InvalidWorkloadError(f"--all-tasks-lanes must be at least 0, got {args.all_tasks_lanes}")


def parameters(
    args: argparse.Namespace, names: Sequence[str], *, every_task: bool = False
) -> Mapping[str, Mapping[str, Any]]:
    """What selectors of these names are made with beside a seed; of a corpus only for who learns from its rows."""
    asked = [name for name in names if SELECTORS[name].from_rows]
    if not asked:
        return {}
    build: Any = import_module("metainf.corpus.build")
    corpus = LessonsOf(args.corpus, args.train_world or args.world, build.corpus_digest(args.corpus))
    more: dict[str, Any] = {"corpus": corpus, "most_lanes": args.most_lanes}
    more |= {"folds": _FOLDS} | (_QUICK if args.quick else {})
    if every_task and args.all_tasks_lanes is not None:
        train: Any = import_module("metainf.training.train")
        whole = train.TrainingPlan()
        more |= {"most_lanes": args.all_tasks_lanes or whole.most_lanes, "folds": whole.most_folds}
    return dict.fromkeys(asked, more)


def remarks(parameters: Mapping[str, Mapping[str, Any]]) -> Mapping[str, str]:
    """What a report says beside the names of these selectors: how much they learn from."""
    return {name: f"at most {each['most_lanes']:,} pairs, {each['folds']} folds" for name, each in parameters.items()}


@lru_cache(maxsize=1)
def _lessons(folder: Path, world: str | None) -> Any:
    build: Any = import_module("metainf.corpus.build")
    corpora: Any = import_module("metainf.training.corpus")
    shipped: Any = import_module("metainf.selectors.shipped")
    store: Any = import_module("metainf.corpus.task_store")
    tables: Any = import_module("metainf.corpus.tables")
    tasks = {task.key: task for task in store.read_tasks(folder / build.TASKS)}
    whole = corpora.whole_tasks(folder, list(tasks.values()))
    return shipped.Lessons(tables.load_rows(folder, world=world), tasks, whole)
