"""The tasks of a corpus: points that fill the space of workloads evenly, each on a place of some model.

Separate from what a point means (`workloads`) and from where tasks can stand (`places`).

The design. A scrambled Sobol sequence over the axes of `workloads`; its first n points are those of any longer one, so
a corpus can grow, and any first part of it is spread over everything. Models take turns in an order shuffled anew for
each round, so that all have equally many points. Half of the points fall on accelerators that have measured tables,
where the model has places there, the rest on all others, each accelerator as likely as the next. 30 % of them search a
rate, 40 % have a closed loop, 30 % are batches. For a quarter of them there is a head that drafts for the model.

Twins. One point in fifty stands on 4 to 8 places of its model instead of one (fewer where it has not so many that the
default runs on), which makes about a tenth of the tasks: what a choice among pools is calibrated and judged by. Load
and promises are set on the first of these places, as on any other point's, and kept on the others, whatever they can
do. Twins follow each other, so that none of a group is far away, and only the last of a corpus can be cut short.
`metainf.corpus.task.twin_groups` finds them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeVar

import numpy as np
from scipy.stats import qmc

from metainf.corpus.loads import loaded, unloaded_traffic
from metainf.corpus.places import MEASURED_ACCELERATORS, Place, distinct_models, places_of
from metainf.corpus.replicas import Infeasible, replica_of
from metainf.corpus.task import Task
from metainf.corpus.workloads import AXES, Point, drawn_shape
from metainf.methods import portfolio
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.contract import Predictor, Question

__all__ = ["designed_tasks"]

_MEASURED_SHARE = 0.5
_DRAFT_MODEL_SHARE = 0.25
_TWIN_SHARE = 0.02
_TWINS = (4, 8)
_STEPS = (0.7548776662466927, 0.5698402909980532)
"""Between the accelerators and the layouts of twins, modulo 1: any number of them fills the square evenly.

Source: R2 of M. Roberts, "The unreasonable effectiveness of quasirandom sequences" (2018): powers of the root of
x^3 = x + 1.
"""
_MOST_STEPS = 64

T = TypeVar("T")


def designed_tasks(count: int, *, seed: int, predictor: Predictor | None = None) -> tuple[Task, ...]:
    """The first `count` tasks of the design under a seed; no two are equal."""
    predictor = predictor or AnalyticalPredictor()
    tasks: dict[str, Task] = {}
    for turn, point in enumerate(_points(2 * count, seed)):
        if len(tasks) >= count:
            break
        for task in _tasks(_model_of(turn, seed), point, predictor):
            tasks.setdefault(task.key, task)
    return tuple(islice(tasks.values(), count))


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


def _tasks(model: str, point: Point, predictor: Predictor) -> Iterator[Task]:
    """The task of a point with its twins; none where not even the default runs on its own place."""
    places = places_of(model)
    place = _place(places, point["accelerator"], point["layout"])
    shape = drawn_shape(point, place)
    task = Task(
        model=model,
        accelerator=place.accelerator,
        layout=place.layout,
        traffic=unloaded_traffic(shape),
        draft_model=point["draft_model"] < _DRAFT_MODEL_SHARE,
        origin=shape.origin,
    )
    replica = replica_of(task, portfolio(task.engine_version)[0])
    if isinstance(replica, Infeasible):
        return
    promised = loaded(shape, point, lambda traffic: predictor.predict([Question(replica, traffic)]))
    if promised is None:
        return
    task = replace(task, traffic=promised[0], slo=promised[1])
    yield task
    twins = (replace(task, accelerator=p.accelerator, layout=p.layout) for p in _other_places(places, place, point))
    yield from islice((twin for twin in twins if _runs(twin)), max(0, _group_size(point) - 1))


def _runs(task: Task) -> bool:
    return not isinstance(replica_of(task, portfolio(task.engine_version)[0]), Infeasible)


def _group_size(point: Point) -> int:
    """Places on which the point's workload stands."""
    share = point["twins"] / _TWIN_SHARE
    return _picked(range(_TWINS[0], _TWINS[1] + 1), share) if share < 1.0 else 1


def _other_places(places: Sequence[Place], first: Place, point: Point) -> Iterator[Place]:
    """Places besides the first, each once, in an order that the point draws."""
    seen = {first}
    for step in range(1, _MOST_STEPS):
        shares = (
            (point[axis] + step * each) % 1.0 for axis, each in zip(("accelerator", "layout"), _STEPS, strict=True)
        )
        place = _place(places, *shares)
        if place not in seen:
            seen.add(place)
            yield place


def _place(places: Sequence[Place], accelerator: float, layout: float) -> Place:
    """The accelerator by the first share, then a layout by the second: measured ones have one half of the first."""
    names = list(dict.fromkeys(place.accelerator for place in places))
    measured = [name for name in names if name in MEASURED_ACCELERATORS]
    others = [name for name in names if name not in MEASURED_ACCELERATORS]
    if measured and (accelerator < _MEASURED_SHARE or not others):
        name = _picked(measured, accelerator / _MEASURED_SHARE if others else accelerator)
    else:
        name = _picked(others, (accelerator - _MEASURED_SHARE) / (1.0 - _MEASURED_SHARE) if measured else accelerator)
    return _picked([place for place in places if place.accelerator == name], layout)


def _picked(items: Sequence[T], share: float) -> T:
    return items[min(int(share * len(items)), len(items) - 1)]
