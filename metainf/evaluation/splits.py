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
from metainf.selectors.group_folds import taught_beside

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
    """

    kind: SplitKind
    folds: tuple[Fold, ...]
    groups: tuple[StringArray, ...]


def split(
    tasks: TaskTable,
    kind: SplitKind,
    *,
    most_folds: int | None = None,
    seed: int = 0,
    lookup: Callable[[str], ModelArchitecture | None] = known_model,
) -> Split:
    """The folds of these tasks under one kind of split.

    Parameters
    ----------
    most_folds : int or None
        None: 8, and 3 by 3 for leave-both-out, which has 2 by 2 with any number.
    seed : int
        Of the random split; the others have nothing to draw.
    lookup : function
        The architecture of a model's id, for shape twins.
    """
    families = model_groups(tasks.model.tolist(), lookup)
    models = np.array([families[each] for each in tasks.model.tolist()], dtype=np.str_)
    devices = np.array([accelerator_group(each) for each in tasks.accelerator.tolist()], dtype=np.str_)
    if kind is SplitKind.BOTH:
        most_each = _MOST_FOLDS_EACH if most_folds is None else _FEW_FOLDS_EACH
        return Split(kind, _apart(_both(models, devices, most_each), tasks), (models, devices))
    groups: Mapping[SplitKind, StringArray] = {
        SplitKind.MODEL: models,
        SplitKind.ACCELERATOR: devices,
        SplitKind.WORKLOAD: tasks.workload,
        # Single tasks would make intervals as if they were independent, which near copies are not.
        SplitKind.RANDOM: models,
    }
    if kind is SplitKind.RANDOM:
        folds = _random(len(tasks), most_folds or _MOST_FOLDS, seed)
    else:
        folds = _apart(grouped_folds(groups[kind], most_folds or _MOST_FOLDS), tasks)
    return Split(kind, folds, (groups[kind],))


def grouped_folds(groups: Sequence[str] | StringArray, most_folds: int) -> tuple[Fold, ...]:
    """Folds that share no group, at most so many, as even in size as packing the largest first makes them.

    Also for choosing hyper-parameters inside of a train half. Empty where there are fewer than two groups.
    """
    names = np.asarray(groups, dtype=np.str_)
    bins = _bins(names, most_folds)
    if len(bins) < 2:
        return ()
    everything = np.arange(len(names))
    found = []
    for held in bins:
        inside = np.isin(names, held)
        found.append(Fold(_title(held), everything[~inside], everything[inside]))
    return tuple(found)


def _both(models: StringArray, devices: StringArray, most_folds: int) -> tuple[Fold, ...]:
    everything = np.arange(len(models))
    found = []
    for held_models, held_devices in product(_bins(models, most_folds), _bins(devices, most_folds)):
        model, device = np.isin(models, held_models), np.isin(devices, held_devices)
        train, test = everything[~model & ~device], everything[model & device]
        if len(train) and len(test):
            found.append(Fold(f"{_title(held_models)} on {_title(held_devices)}", train, test))
    return tuple(found)


def _apart(folds: Sequence[Fold], tasks: TaskTable) -> tuple[Fold, ...]:
    """The folds without train tasks whose draws are held out, and without those that leave nothing to learn from."""
    found = []
    for fold in folds:
        held = np.zeros(len(tasks), dtype=np.bool_)
        held[fold.test] = True
        train = fold.train[taught_beside(tasks.draws, held)[fold.train]]
        if len(train):
            found.append(replace(fold, train=train))
    return tuple(found)


def _random(tasks: int, most_folds: int, seed: int) -> tuple[Fold, ...]:
    order = np.random.default_rng(seed).permutation(tasks)
    parts = [part for part in np.array_split(order, min(most_folds, tasks)) if len(part)] if tasks > 1 else []
    everything = np.arange(tasks)
    return tuple(
        Fold(f"part {place + 1}", np.setdiff1d(everything, part), np.sort(part)) for place, part in enumerate(parts)
    )


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
