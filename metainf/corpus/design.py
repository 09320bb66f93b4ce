"""The tasks of a corpus: points that fill the space of workloads evenly, each on a place of some model.

Separate from what a point means (`workloads`) and from where tasks can stand (`places`).

The design. A scrambled Sobol sequence over the axes of `workloads`; its first n points are those of any longer one, so
a corpus can grow, and any first part of it is spread over everything. Models take turns in an order shuffled anew for
each round, so that all have equally many tasks. Half of the tasks fall on accelerators that have measured tables, where
the model has places there, the rest on all others, each accelerator as likely as the next. 30 % of the tasks search a
rate, 40 % have a closed loop, 30 % are batches. For a quarter of them there is a head that drafts for the model.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from scipy.stats import qmc

from metainf.corpus.loads import loaded, unloaded_traffic
from metainf.corpus.places import MEASURED_ACCELERATORS, Place, distinct_models, places_of
from metainf.corpus.replicas import Infeasible, longest_tokens, replica_of
from metainf.corpus.task import Task
from metainf.corpus.workloads import AXES, Point, drawn_shape, model_length
from metainf.methods import portfolio
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.contract import Predictor, Question

__all__ = ["designed_tasks"]

_MEASURED_SHARE = 0.5
_DRAFT_MODEL_SHARE = 0.25

T = TypeVar("T")


def designed_tasks(count: int, *, seed: int, predictor: Predictor | None = None) -> tuple[Task, ...]:
    """The first `count` tasks of the design under a seed; no two are equal."""
    predictor = predictor or AnalyticalPredictor()
    tasks: dict[str, Task] = {}
    for turn, point in enumerate(_points(2 * count, seed)):
        if len(tasks) == count:
            break
        task = _task(_model_of(turn, seed), point, predictor)
        if task is not None:
            tasks.setdefault(task.key, task)
    return tuple(tasks.values())


def _points(count: int, seed: int) -> Iterator[Point]:
    """Points of the cube as axis -> share; the sequence does not depend on `count`."""
    sobol = qmc.Sobol(len(AXES), scramble=True, rng=np.random.default_rng(np.random.SeedSequence((seed, 100))))
    values = sobol.random_base2(max(1, math.ceil(math.log2(max(count, 2)))))
    for row in values[:count]:
        yield dict(zip(AXES, row.tolist(), strict=True))


def _model_of(turn: int, seed: int) -> str:
    models = distinct_models()
    order = np.random.default_rng(np.random.SeedSequence((seed, 101, turn // len(models)))).permutation(len(models))
    return models[int(order[turn % len(models)])]


def _task(model: str, point: Point, predictor: Predictor) -> Task | None:
    """The task of a point; None where not even the default runs."""
    place = _place(places_of(model), point)
    shape = drawn_shape(point, place)
    task = Task(
        model=model,
        accelerator=place.accelerator,
        layout=place.layout,
        traffic=unloaded_traffic(shape),
        max_model_len=model_length(place, longest_tokens(shape.input_tokens, shape.output_tokens)),
        draft_model=point["draft_model"] < _DRAFT_MODEL_SHARE,
        origin=shape.origin,
    )
    replica = replica_of(task, portfolio(task.engine_version)[0])
    if isinstance(replica, Infeasible):
        return None
    promised = loaded(shape, point, lambda traffic: predictor.predict([Question(replica, traffic)]))
    return None if promised is None else replace(task, traffic=promised[0], slo=promised[1])


def _place(places: Sequence[Place], point: Point) -> Place:
    """The accelerator by the point's first axis, then a layout: measured ones share one half of the first axis."""
    names = list(dict.fromkeys(place.accelerator for place in places))
    measured = [name for name in names if name in MEASURED_ACCELERATORS]
    others = [name for name in names if name not in MEASURED_ACCELERATORS]
    share = point["accelerator"]
    if measured and (share < _MEASURED_SHARE or not others):
        name = _picked(measured, share / _MEASURED_SHARE if others else share)
    else:
        name = _picked(others, (share - _MEASURED_SHARE) / (1.0 - _MEASURED_SHARE) if measured else share)
    return _picked([place for place in places if place.accelerator == name], point["layout"])


def _picked(items: Sequence[T], share: float) -> T:
    return items[min(int(share * len(items)), len(items) - 1)]
