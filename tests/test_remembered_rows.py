"""Rows that are worked out once for each object, by its identity."""

import numpy as np
from numpy.typing import NDArray

from metainf.predictors.remembered import RememberedRows, one_by_one


class Thing:
    def __init__(self, value: float) -> None:
        self.value = value


def remembered(asked: list[Thing], most: int = 8192) -> RememberedRows[Thing]:
    def describe(thing: Thing) -> NDArray[np.float64]:
        asked.append(thing)
        return np.array([thing.value, -thing.value])

    return RememberedRows(2, one_by_one(describe), most=most)


def test_each_object_is_described_once_and_rows_come_in_the_order_asked() -> None:
    asked: list[Thing] = []
    rows = remembered(asked)
    things = [Thing(float(i)) for i in range(200)]
    assert rows.of(things[:3])[:, 0].tolist() == [0.0, 1.0, 2.0]
    found = rows.of([*things[::-1], things[5]])
    assert found.shape == (201, 2)
    assert found[:, 0].tolist() == [*range(199, -1, -1), 5]
    assert asked == [*things[:3], *things[:2:-1]]


def test_equal_objects_are_told_apart_and_nothing_is_asked_of_none() -> None:
    asked: list[Thing] = []
    rows = remembered(asked)
    rows.of([Thing(1.0), Thing(1.0)])
    assert len(asked) == 2
    assert rows.of([]).shape == (0, 2)


def test_with_too_many_all_are_forgotten_and_those_asked_for_learnt_again() -> None:
    asked: list[Thing] = []
    rows = remembered(asked, most=3)
    things = [Thing(float(i)) for i in range(4)]
    rows.of(things[:3])
    assert rows.of([things[3], things[0]])[:, 0].tolist() == [3.0, 0.0]
    assert len(asked) == 5
    assert rows.of(things)[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_rows_that_are_known_already_are_not_asked_for() -> None:
    asked: list[Thing] = []
    rows = remembered(asked, most=3)
    things = [Thing(float(i)) for i in range(4)]
    rows.keep(things[:2], np.array([[10.0, 0.0], [11.0, 0.0]]))
    rows.keep(things[1:3], np.array([[99.0, 0.0], [12.0, 0.0]]))  # what is kept stays as it is
    assert rows.of(things[:3])[:, 0].tolist() == [10.0, 11.0, 12.0]
    assert not asked
    rows.keep(things[3:], np.array([[13.0, 0.0]]))  # one too many: the others are forgotten
    assert rows.of(things[3:])[:, 0].tolist() == [13.0]
    assert rows.of(things[:1])[:, 0].tolist() == [0.0]
