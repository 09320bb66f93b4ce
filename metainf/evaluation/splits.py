"""Which tasks a selector learns from and which it is judged on: whole groups are held out, and the random split beside.

Separate from the groups (what is alike) and from the outcomes (what is scored): a split is a value that tests can check
for shared groups.

Holding out more than one group at a time only makes a split harder, so groups are packed into at most so many folds,
evenly by size, and each task is judged once. In leave-both-out a fold's train tasks share neither its models nor its
accelerators; the others are in neither half. Nor is a task whose latent draws are those of one that is held out: a
workload that is on several places would otherwise be learnt from on one and judged on another.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import product

import numpy as np
from numpy.typing import NDArray

from metainf.architecture import ModelArchitecture
from metainf.evaluation.groups import accelerator_group, model_groups
from metainf.known_models import known_model
from metainf.selectors.contract import TaskTable

__all__ = ["Fold", "Split", "SplitKind", "grouped_folds", "split"]

IntArray = NDArray[np.intp]
StringArray = NDArray[np.str_]

_MOST_FOLDS = 8
_MOST_FOLDS_EACH = 3  # of models and of accelerators in leave-both-out: nine fits
_FEW_FOLDS_EACH = 2  # where fewer folds are asked for than a split has: four, and never the square of that number


class SplitKind(StrEnum):
    """What is unseen when a selector is judged."""

    MODEL = "leave-model-out"
    ACCELERATOR = "leave-accelerator-out"
    BOTH = "leave-both-out"
    WORKLOAD = "leave-workload-out"
    RANDOM = "random"  # flatters: a task's near copies are in train


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """Rows to learn from and rows to be judged on, ascending; `held_out` names the groups that only the latter have."""

    held_out: str
    train: IntArray
    test: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The folds of one kind, and each task's groups.

    Attributes
    ----------
    groups : one array of shape (n,) per factor that is held out
        What intervals resample: tasks of a group stand or fall together. Leave-both-out has two factors.
    taught : the same of the rows that are learnt from
        Equal to `groups` where these are the same tasks.
    """

    kind: SplitKind
    folds: tuple[Fold, ...]
    groups: tuple[StringArray, ...]
    taught: tuple[StringArray, ...]


def split(
    tasks: TaskTable,
    kind: SplitKind,
    *,
    taught: TaskTable | None = None,
    most_folds: int | None = None,
    seed: int = 0,
    lookup: Callable[[str], ModelArchitecture | None] = known_model,
) -> Split:
    """The folds of these tasks under one kind of split.

    Parameters
    ----------
    taught : TaskTable or None
        What is learnt from, where it is another table than the tasks that are judged: train rows are of it.
    most_folds : int or None
        None: 8, and 3 by 3 for leave-both-out, which has 2 by 2 with any number.
    seed : int
        Of the random split; the others have nothing to draw.
    lookup : function
        The architecture of a model's id, for shape twins.
    """
    lessons = tasks if taught is None else taught
    families = model_groups([*tasks.model.tolist(), *lessons.model.tolist()], lookup)
    factors = _factors(tasks, kind, families)
    taught_factors = factors if taught is None else _factors(lessons, kind, families)
    if kind is SplitKind.RANDOM:
        folds = _random(tasks, lessons, most_folds or _MOST_FOLDS, seed)
    else:
        most = most_folds or _MOST_FOLDS
        if kind is SplitKind.BOTH:
            most = _MOST_FOLDS_EACH if most_folds is None else _FEW_FOLDS_EACH
        folds = _apart(_held_out(factors, taught_factors, most), tasks, lessons)
    return Split(kind, folds, factors, taught_factors)


def _factors(tasks: TaskTable, kind: SplitKind, families: Mapping[str, str]) -> tuple[StringArray, ...]:
    """The groups of each task under what a kind of split holds out."""
    if kind is SplitKind.WORKLOAD:
        return (tasks.workload,)
    models = np.array([families[each] for each in tasks.model.tolist()], dtype=np.str_)
    # Single tasks would make intervals as if they were independent, which near copies are not.
    if kind in (SplitKind.MODEL, SplitKind.RANDOM):
        return (models,)
    devices = np.array([accelerator_group(each) for each in tasks.accelerator.tolist()], dtype=np.str_)
    return (devices,) if kind is SplitKind.ACCELERATOR else (models, devices)


def grouped_folds(groups: Sequence[str] | StringArray, most_folds: int) -> tuple[Fold, ...]:
    """Folds that share no group, at most so many, as even in size as packing the largest first makes them.

    Also for choosing hyper-parameters inside of a train half. Empty where there are fewer than two groups.
    """
    names = np.asarray(groups, dtype=np.str_)
    return _held_out((names,), (names,), most_folds)


def _held_out(factors: tuple[StringArray, ...], taught: tuple[StringArray, ...], most_folds: int) -> tuple[Fold, ...]:
    """A fold for each bin of groups, or pair of bins of two factors, that leaves something to learn from and to judge.

    Train rows share no group of any factor with those that are judged; what shares some is in neither half.
    """
    found = []
    for held in product(*(_bins(names, most_folds) for names in factors)):
        inside = np.all([np.isin(names, each) for names, each in zip(factors, held, strict=True)], axis=0)
        apart = np.all([~np.isin(names, each) for names, each in zip(taught, held, strict=True)], axis=0)
        train, test = np.flatnonzero(apart), np.flatnonzero(inside)
        if len(train) and len(test):
            found.append(Fold(" on ".join(_title(each) for each in held), train, test))
    return tuple(found)


def _apart(folds: Sequence[Fold], tasks: TaskTable, lessons: TaskTable) -> tuple[Fold, ...]:
    """The folds without train tasks whose draws are held out, and without those that leave nothing to learn from."""
    if tasks.draws is None or lessons.draws is None:
        return tuple(folds)
    found = []
    for fold in folds:
        drawn_alike = np.isin(lessons.draws[fold.train], tasks.draws[fold.test])
        if not drawn_alike.all():
            found.append(replace(fold, train=fold.train[~drawn_alike]))
    return tuple(found)


def _random(tasks: TaskTable, lessons: TaskTable, most_folds: int, seed: int) -> tuple[Fold, ...]:
    """Any tasks, whatever is like them; of another table those that are the very same tasks are not learnt from."""
    count = len(tasks)
    order = np.random.default_rng(seed).permutation(count)
    parts = [np.sort(part) for part in np.array_split(order, min(most_folds, count)) if len(part)] if count > 1 else []
    everything = np.arange(count)
    if lessons is tasks:
        halves = [(np.setdiff1d(everything, part), part) for part in parts]
    else:
        judged, learnt = _names(tasks), _names(lessons)
        halves = [(np.flatnonzero(~np.isin(learnt, judged[part])), part) for part in parts]
    return tuple(Fold(f"part {place + 1}", train, test) for place, (train, test) in enumerate(halves) if len(train))


def _names(tasks: TaskTable) -> StringArray:
    """What tells tasks apart, shape (n,): place and draws, or without draws all that is known of them."""
    rows = np.ascontiguousarray(tasks.features)
    own = [row.tobytes().hex() for row in rows] if tasks.draws is None else tasks.draws.tolist()
    named = zip(tasks.model.tolist(), tasks.accelerator.tolist(), tasks.workload.tolist(), own, strict=True)
    return np.array(["/".join(each) for each in named], dtype=np.str_)


def _bins(names: StringArray, most: int) -> list[list[str]]:
    """The groups packed into at most `most` bins: the largest first, each into the emptiest.

    Equal sizes are ordered by a checksum: the alphabet would put the variants of one workload side by side.
    """
    found, counts = np.unique(names, return_counts=True)
    pairs = zip(found.tolist(), counts.tolist(), strict=True)
    order = sorted(pairs, key=lambda pair: (-pair[1], zlib.crc32(pair[0].encode()), pair[0]))
    bins: list[list[str]] = [[] for _ in range(min(most, len(order)))]
    filled = [0] * len(bins)
    for name, count in order:
        place = filled.index(min(filled))
        bins[place].append(name)
        filled[place] += count
    return [sorted(each) for each in bins]


def _title(held: Sequence[str]) -> str:
    shown = ", ".join(held[:3])
    return shown if len(held) <= 3 else f"{shown} and {len(held) - 3} more"
