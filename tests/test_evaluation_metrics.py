import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from metainf.errors import UndefinedMetricError
from metainf.evaluation import metrics
from metainf.selectors.contract import MethodTable
from selection_tables import method_table

NAN = math.nan


def picks(*columns: int) -> metrics.IntArray:
    return np.array(columns, dtype=np.intp)


@pytest.mark.parametrize(
    ("performance", "complexity", "expected"),
    [
        pytest.param([100.0, 101.0, 90.0], [0, 1, 2], 0, id="the default is within 2 % of the best -> the default"),
        pytest.param([100.0, 103.0, 90.0], [0, 1, 2], 1, id="one is clearly better -> that one"),
        pytest.param([90.0, 100.0, 99.0], [0, 3, 1], 2, id="two are equal within 2 % -> the simpler"),
        pytest.param([90.0, 100.0, 99.0], [0, 2, 2], 1, id="equally simple -> the first"),
        pytest.param([98.0, 100.0, NAN], [0, 1, 2], 0, id="exactly at the tolerance -> counts as equal"),
        pytest.param([NAN, 5.0, 9.0], [0, 1, 2], 2, id="the default does not run -> the best that does"),
        pytest.param([0.0, 5.0, -1.0], [0, 1, 2], 1, id="nothing delivered is not running"),
        pytest.param([NAN, NAN, NAN], [0, 1, 2], -1, id="nothing runs -> no label"),
    ],
)
def test_label_is_the_simplest_within_the_tolerance(
    performance: ArrayLike, complexity: list[float], expected: int
) -> None:
    table = method_table([performance], complexity=complexity)
    assert metrics.labels(table).tolist() == [expected]


@pytest.mark.parametrize(
    ("performance", "broken", "expected"),
    [
        pytest.param([100.0, 103.9], None, False, id="worse by less than twice the tolerance"),
        pytest.param([100.0, 105.0], None, True, id="worse by more than twice the tolerance"),
        pytest.param([NAN, 5.0], None, True, id="the default does not run and another does"),
        pytest.param([100.0, 90.0], [True, False], True, id="the default breaks a limit and another keeps it"),
        pytest.param([NAN, NAN], None, False, id="nothing to decide"),
    ],
)
def test_decisive_is_where_the_default_is_clearly_worse(
    performance: ArrayLike, broken: list[bool] | None, expected: bool
) -> None:
    limits = None if broken is None else np.array([broken])
    assert metrics.decisive(method_table([performance]), limits).tolist() == [expected]


def test_a_pick_that_breaks_a_limit_scores_a_tenth_of_the_default() -> None:
    table = method_table([[100.0, 120.0, NAN]] * 4)
    broken = np.zeros((4, 3), dtype=bool)
    broken[1, 1] = True
    found = metrics.score(table, picks(1, 1, 2, -1), broken)
    assert found.tolist() == pytest.approx([120.0, 10.0, 10.0, 100.0])
    assert metrics.log_gain(table, picks(1, 1, 2, -1), broken)[1:3] == pytest.approx(math.log(0.1))
    assert metrics.violation_rate(table, picks(1, 1, 2, -1), broken) == pytest.approx(2 / 3)
    assert metrics.false_refusal_rate(table, picks(1, 1, 2, -1), broken) == 0.25


def test_a_bad_pick_never_passes_the_best_that_keeps_the_limits() -> None:
    table = method_table([[1000.0, 5.0]])
    broken = np.array([[True, False]])
    assert metrics.score(table, picks(0), broken).tolist() == [5.0]
    assert metrics.relative_regret(table, picks(0), broken).tolist() == [0.0]


def test_no_ratio_exists_where_the_default_does_not_run() -> None:
    table = method_table([[NAN, 5.0, NAN], [2.0, 4.0, 2.0]])
    assert math.isnan(metrics.log_gain(table, picks(1, 1))[0])
    assert metrics.acceleration_ratio(table, picks(1, 1)) == pytest.approx(2.0)
    assert metrics.relative_regret(table, picks(1, 1)).tolist() == [0.0, 0.0]
    assert metrics.relative_regret(table, picks(2, 1)).tolist() == [1.0, 0.0]
    with pytest.raises(UndefinedMetricError, match="runs on none of 1 tasks"):
        metrics.acceleration_ratio(table.rows(np.array([0])), picks(1))


def test_accuracy_counts_equals_as_right_and_strictly_only_the_label() -> None:
    table = method_table([[100.0, 101.0], [100.0, 110.0], [100.0, 110.0], [NAN, NAN]])
    chosen = picks(1, 1, -1, -1)
    assert metrics.tolerant_accuracy(table, chosen) == pytest.approx(2 / 3)
    assert metrics.strict_accuracy(table, chosen) == pytest.approx(1 / 3)
    with pytest.raises(UndefinedMetricError, match="no task has a label"):
        metrics.tolerant_accuracy(table.rows(np.array([3])), picks(-1))


def test_macro_f1_over_classes_of_train() -> None:
    # Labels 0, 0, 1, 1, 2; picks 0, 1, 1, 1, 0. F1 of 0: 2*1/(2+2), of 1: 2*2/(3+2), of 2: 0.
    rows = {0: [10.0, 5.0, 5.0], 1: [5.0, 10.0, 5.0], 2: [5.0, 5.0, 10.0]}
    table = method_table([rows[0], rows[0], rows[1], rows[1], rows[2]])
    chosen = picks(0, 1, 1, 1, 0)
    assert metrics.macro_f1(table, chosen, picks(0, 1, 2)) == pytest.approx((0.5 + 0.8 + 0.0) / 3)
    assert metrics.macro_f1(table, chosen, picks(0, 1)) == pytest.approx(0.65)
    with pytest.raises(UndefinedMetricError, match="no class occurs"):
        metrics.macro_f1(table.rows(np.array([0])), picks(0), picks(1))


def test_macro_f1_takes_an_equal_pick_for_the_label_unless_strict() -> None:
    table = method_table([[100.0, 101.0], [50.0, 100.0]])
    assert metrics.macro_f1(table, picks(1, 1), picks(0, 1)) == 1.0
    assert metrics.macro_f1(table, picks(1, 1), picks(0, 1), strict=True) == pytest.approx((0.0 + 2 / 3) / 2)


def test_classes_are_labels_of_at_least_one_percent() -> None:
    table = method_table([[2.0, 1.0, 1.0]] * 197 + [[1.0, 2.0, 1.0]] * 2 + [[1.0, 1.0, 2.0]])
    assert metrics.class_labels(table).tolist() == [0, 1]


def runnable(performance: ArrayLike) -> MethodTable:
    """Feasible wherever anything is known."""
    return method_table(performance, feasible=np.isfinite(np.asarray(performance, dtype=np.float64)))


def test_single_best_is_feasible_on_95_percent_of_train() -> None:
    mostly = [[1.0, 2.0, 1.5]] * 18 + [[1.0, NAN, 1.5]] * 2
    assert metrics.single_best(runnable(mostly)) == 2
    assert metrics.single_best(runnable([[1.0, 9.0, 1.5]] * 19 + [[1.0, NAN, 1.5]])) == 1
    with pytest.raises(UndefinedMetricError, match="no method is feasible on 95 % of 2 tasks"):
        metrics.single_best(runnable([[1.0, NAN], [NAN, 1.0]]))


@pytest.mark.parametrize(
    ("good", "failing", "expected"),
    [
        # log 2 on 18 tasks and log 0.1 on 2: 0.39 a task; log 1.2 on all: 0.18.
        pytest.param(2.0, 2, 1, id="fails on a tenth and is worth it"),
        # log 1.5 on 15 and log 0.1 on 5: -0.27 a task.
        pytest.param(1.5, 5, 2, id="fails on a quarter and is not"),
    ],
)
def test_a_method_that_breaks_its_slo_can_be_the_single_best_and_pays_for_it(
    good: float, failing: int, expected: int
) -> None:
    table = method_table([[1.0, good, 1.2]] * (20 - failing) + [[1.0, 0.0, 1.2]] * failing)
    assert metrics.single_best(table) == expected


def test_what_a_world_knows_nothing_of_counts_neither_for_nor_against_the_single_best() -> None:
    table = method_table([[1.0, 2.0, 1.5]] * 10 + [[1.0, NAN, 1.5]] * 10)
    assert metrics.single_best(table) == 1


def test_single_best_of_equals_is_the_simpler() -> None:
    assert metrics.single_best(method_table([[1.0, 2.0, 2.0]], complexity=[0, 2, 1])) == 2


def test_single_best_falls_back_to_the_default_where_facts_forbid_it() -> None:
    table = method_table([[1.0, 2.0], [1.0, NAN]], feasible=[[True, True], [True, False]])
    assert metrics.single_best_choice(table, 1).tolist() == [1, 0]


def test_closed_gap_by_hand() -> None:
    # SBS is column 1: gains log 2 and 0; VBS log 2 and log 4; the choice takes log 2 and log 2.
    table = method_table([[1.0, 2.0, 1.0, 1.0], [1.0, 1.0, 4.0, 2.0]])
    expected = (2 * math.log(2) - math.log(2)) / (3 * math.log(2) - math.log(2))
    assert metrics.closed_gap(table, picks(1, 3), single=1) == pytest.approx(expected)
    assert metrics.closed_gap(table, picks(0, 0), single=1) == pytest.approx(-0.5)


def test_closed_gap_is_undefined_where_single_and_virtual_best_coincide() -> None:
    table = method_table([[1.0, 2.0], [1.0, 3.0]])
    with pytest.raises(UndefinedMetricError, match="coincide"):
        metrics.closed_gap(table, picks(1, 1), single=1)


def test_regret_by_hand() -> None:
    table = method_table([[50.0, 100.0], [75.0, 100.0], [100.0, 50.0]])
    found = metrics.regret(table, picks(0, 0, 0))
    assert found.mean == pytest.approx(0.25)
    assert found.p95 == pytest.approx(0.475)


def test_acceleration_over_one_at_a_time_is_told_per_batch_size() -> None:
    table = method_table([[8.0, 4.0, 2.0], [16.0, 4.0, 2.0], [64.0, 4.0, 1.0], [9.0, 9.0, NAN]])
    sizes = np.array([4.0, 4.0, 64.0, 1.0])
    found = metrics.acceleration_over(table, picks(0, 0, 0, 0), 2, sizes)
    assert found == pytest.approx({4.0: math.sqrt(32.0), 64.0: 64.0})


def test_usd_of_a_unit_of_work_goes_with_price_and_penalty() -> None:
    table = method_table([[1.0, 2.0], [1.0, NAN]])
    price = np.array([3600.0, 7200.0])
    assert metrics.total_usd(table, picks(1, 0), price) == pytest.approx(0.5 + 2.0)
    assert metrics.total_usd(table, picks(1, 1), price) == pytest.approx(0.5 + 20.0)


@st.composite
def tables(draw: st.DrawFn) -> MethodTable:
    n, m = draw(st.integers(1, 12)), draw(st.integers(2, 5))
    value = st.one_of(st.floats(0.1, 1000.0), st.just(NAN))
    performance = np.array(draw(st.lists(value, min_size=n * m, max_size=n * m))).reshape(n, m)
    performance[:, 0] = np.where(np.isnan(performance[:, 0]), 1.0, performance[:, 0])
    return method_table(performance, tolerance=draw(st.floats(0.0, 0.3)))


def some_choice(table: MethodTable, draw: st.DataObject) -> metrics.IntArray:
    column = st.integers(-1, table.performance.shape[1] - 1)
    return np.array(draw.draw(st.lists(column, min_size=len(table), max_size=len(table))), dtype=np.intp)


@settings(max_examples=50, deadline=None)
@given(table=tables(), draw=st.data())
def test_no_choice_beats_the_virtual_best(table: MethodTable, draw: st.DataObject) -> None:
    chosen = some_choice(table, draw)
    lost = metrics.relative_regret(table, chosen)
    assert (lost >= -1e-12).all() and (lost <= 1.0).all()
    assert (metrics.relative_regret(table, metrics.virtual_best(table)) == 0.0).all()
    try:
        gap = metrics.closed_gap(table, chosen, metrics.single_best(table))
    except UndefinedMetricError:
        return
    assert gap <= 1.0 + 1e-9


@settings(max_examples=50, deadline=None)
@given(table=tables())
def test_virtual_best_has_gap_one_and_single_best_zero_on_its_own_train(table: MethodTable) -> None:
    try:
        single = metrics.single_best(table)
        gap = metrics.closed_gap(table, metrics.virtual_best(table), single)
    except UndefinedMetricError:
        return
    assert gap == pytest.approx(1.0)
    assert metrics.closed_gap(table, metrics.single_best_choice(table, single), single) == pytest.approx(0.0)


@settings(max_examples=50, deadline=None)
@given(table=tables(), draw=st.data())
def test_tolerant_accuracy_is_at_least_the_strict_one(table: MethodTable, draw: st.DataObject) -> None:
    chosen = some_choice(table, draw)
    assert metrics.tolerant_accuracy(table, chosen) >= metrics.strict_accuracy(table, chosen)
    assert metrics.tolerant_accuracy(table, metrics.labels(table)) == 1.0
    assert metrics.strict_accuracy(table, metrics.labels(table)) == 1.0


@settings(max_examples=50, deadline=None)
@given(table=tables(), draw=st.data())
def test_the_order_of_tasks_does_not_matter(table: MethodTable, draw: st.DataObject) -> None:
    chosen = some_choice(table, draw)
    order = np.array(draw.draw(st.permutations(range(len(table)))), dtype=np.intp)
    moved = table.rows(order)
    for figure in (metrics.tolerant_accuracy, metrics.strict_accuracy, metrics.acceleration_ratio):
        assert figure(moved, chosen[order]) == pytest.approx(figure(table, chosen))
    assert metrics.regret(moved, chosen[order]).mean == pytest.approx(metrics.regret(table, chosen).mean)
    assert metrics.class_labels(moved).tolist() == metrics.class_labels(table).tolist()
