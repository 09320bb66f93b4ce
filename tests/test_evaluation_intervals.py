import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metainf.errors import UndefinedMetricError
from metainf.evaluation.bootstrap import (
    GroupDraws,
    Interval,
    interval_of_sums,
    paired_comparison,
    paired_saving,
    wilcoxon_over_groups,
)
from metainf.evaluation.calibration import (
    LEAST,
    CalibrationCase,
    cheapest_with,
    fit_inflation,
    guaranteed_confidence,
    held_out_decision,
    least_groups,
)
from metainf.evaluation.intervals import coverage_by_group, interval_figures, winkler_scores
from metainf.evaluation.report_sections import calibration_section
from metainf.selectors.contract import FloatArray

RNG = np.random.default_rng(5)
GROUPS = np.array([f"group-{i % 8}" for i in range(80)])


def mean_of(values: FloatArray, draws: GroupDraws) -> Interval:
    columns = np.stack([values, np.ones(len(values))], axis=1)
    return interval_of_sums(columns, lambda sums: sums[..., 0] / sums[..., 1], draws)


def test_the_same_seed_draws_the_same_interval() -> None:
    values = RNG.normal(size=80)
    first, second = (mean_of(values, GroupDraws([GROUPS], seed=3)) for _ in range(2))
    assert first == second
    assert first != mean_of(values, GroupDraws([GROUPS], seed=4))
    assert first.low < first.value < first.high


def test_groups_that_differ_widen_the_interval_and_equal_ones_close_it() -> None:
    place = np.array([int(name[-1]) for name in GROUPS], dtype=float)
    wide, narrow = mean_of(place, GroupDraws([GROUPS])), mean_of(RNG.permutation(place), GroupDraws([GROUPS]))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    flat = mean_of(np.ones(80), GroupDraws([GROUPS]))
    assert flat == Interval(1.0, 1.0, 1.0, groups=8)


def test_interval_of_the_mean_matches_drawing_the_groups_by_hand() -> None:
    values = RNG.normal(size=80)
    by_group = np.array([values[np.unique(GROUPS)[i] == GROUPS].mean() for i in range(8)])
    drawn = np.random.default_rng(9).choice(by_group, size=(4000, 8)).mean(axis=1)
    found = mean_of(values, GroupDraws([GROUPS], draws=4000))
    assert found.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.03)
    assert found.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.03)


def test_two_factors_are_drawn_each_by_itself_and_widen_the_interval() -> None:
    other = np.array([f"device-{i // 8 % 5}" for i in range(80)])
    effect = np.array([float(name[-1]) for name in other])
    one, two = mean_of(effect, GroupDraws([GROUPS])), mean_of(effect, GroupDraws([GROUPS, other]))
    assert two.high - two.low > one.high - one.low


def test_two_groups_are_too_few_for_an_interval() -> None:
    found = mean_of(np.ones(4), GroupDraws([np.array(["a", "a", "b", "b"])]))
    assert found.value == 1.0
    assert math.isnan(found.low) and math.isnan(found.high)


def test_pairs_are_compared_on_the_tasks_that_both_have() -> None:
    draws = GroupDraws([GROUPS])
    first = RNG.normal(size=80)
    second = first - 0.1
    second[0] = math.nan
    found = paired_comparison(first, second, draws)
    assert found.difference.value == pytest.approx(0.1)
    assert found.difference.low == pytest.approx(0.1)
    assert found.confidence == 1.0
    assert paired_comparison(first, first, draws).confidence == 0.5
    with pytest.raises(UndefinedMetricError):
        paired_comparison(first, np.full(80, math.nan), draws)


def test_what_is_saved_is_a_share_of_the_total_and_not_a_mean_of_ratios() -> None:
    # Half the price on all tasks but one in each group, and double on that one, which is dear.
    dear = np.arange(80) >= 72
    other = np.where(dear, 1000.0, 1.0)
    mine = np.where(dear, 2000.0, 0.5)
    draws = GroupDraws([GROUPS])
    found = paired_saving(mine, other, draws)
    assert found.difference.value == pytest.approx((72 * 0.5 - 8 * 1000.0) / (72 * 1.0 + 8 * 1000.0))
    assert found.difference.high < 0.0 and found.confidence == 0.0
    assert paired_comparison(-np.log(mine), -np.log(other), draws).confidence == 1.0
    assert paired_saving(other, mine, draws).confidence == 1.0


def test_a_saving_is_over_the_tasks_whose_price_both_have() -> None:
    mine, other = np.ones(80), np.full(80, 2.0)
    mine[3], other[7] = math.nan, math.nan
    draws = GroupDraws([GROUPS])
    assert paired_saving(mine, other, draws).difference.value == pytest.approx(0.5)
    assert paired_saving(mine, mine, draws).confidence == 0.5
    with pytest.raises(UndefinedMetricError):
        paired_saving(mine, np.full(80, math.nan), draws)


def test_wilcoxon_counts_groups_not_tasks() -> None:
    first = RNG.normal(size=80)
    found = wilcoxon_over_groups(first + 0.1, first, GROUPS)
    assert (found.groups, found.better, found.worse) == (8, 8, 0)
    assert found.p_value == pytest.approx(2 / 2**8)
    assert math.isnan(wilcoxon_over_groups(first, first, GROUPS).p_value)


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        pytest.param(1.5, 1.0, id="inside: the width"),
        pytest.param(2.0, 1.0, id="at the end: inside"),
        pytest.param(2.5, 1.0 + 20 * 0.5, id="above: 20 times the distance at 0.9"),
        pytest.param(0.9, 1.0 + 20 * 0.1, id="below"),
    ],
)
def test_winkler_score(truth: float, expected: float) -> None:
    found = winkler_scores(np.array([truth]), np.array([1.0]), np.array([2.0]), 0.9)
    assert found.tolist() == pytest.approx([expected])


def test_interval_figures_count_groups_alike_and_name_the_worst() -> None:
    truth = np.array([0.0] * 9 + [5.0])
    low, high = np.full(10, -1.0), np.full(10, 1.0)
    high[9] = 3.0
    groups = np.array(["a"] * 9 + ["b"])
    found = interval_figures(truth, low, high, groups, confidence=0.9)
    assert coverage_by_group(truth, low, high, groups) == {"a": 1.0, "b": 0.0}
    assert (found.coverage, found.worst_coverage, found.worst_group) == (0.5, 0.0, "b")
    assert found.median_width == pytest.approx((2.0 + 4.0) / 2)
    assert found.interval_score == pytest.approx((2.0 + 4.0 + 20 * 2.0) / 2)
    with pytest.raises(UndefinedMetricError):
        interval_figures(truth[:0], low[:0], high[:0], groups[:0], confidence=0.9)


def case(groups: int, seed: int = 0, each: int = 60) -> CalibrationCase:
    """Ten candidates a task whose predicted margins miss the true ones by one standard deviation."""
    rng = np.random.default_rng(seed)
    n = groups * each
    true_margin = rng.normal(0.0, 2.0, size=(n, 10))
    return CalibrationCase(
        margin=true_margin + rng.normal(size=(n, 10)),
        kept=true_margin >= 0.0,
        cost=rng.uniform(size=(n, 10)),
        groups=np.repeat([f"g{i:02}" for i in range(groups)], each),
    )


def test_the_cheapest_candidate_with_room_is_chosen_and_none_without() -> None:
    small = CalibrationCase(
        margin=np.array([[3.0, 1.0, -np.inf], [0.5, 0.1, 0.2]]),
        kept=np.ones((2, 3), dtype=bool),
        cost=np.array([[5.0, 1.0, 0.0], [1.0, 1.0, 1.0]]),
        groups=np.array(["a", "b"]),
    )
    assert cheapest_with(small, 0.0).tolist() == [1, 0]
    assert cheapest_with(small, 2.0).tolist() == [0, -1]


def test_the_inflation_keeps_the_promise_on_groups_that_it_never_saw() -> None:
    fitted = fit_inflation([case(20)], 0.9)
    assert LEAST <= fitted.value < 5.0
    assert fitted.violation_rate <= 0.1
    unseen = case(50, seed=1)
    chosen = cheapest_with(unseen, fitted.value)
    broke = ~unseen.kept[np.arange(len(chosen)), np.maximum(chosen, 0)]
    assert broke[chosen >= 0].mean() <= 0.1
    naive = cheapest_with(unseen, 0.0)
    assert (~unseen.kept[np.arange(len(naive)), np.maximum(naive, 0)])[naive >= 0].mean() > 0.1


@pytest.mark.parametrize(
    ("confidence", "groups"),
    [pytest.param(0.9, 9, id="0.9"), pytest.param(0.95, 19, id="0.95"), pytest.param(0.5, 1, id="0.5")],
)
def test_a_guarantee_needs_so_many_groups(confidence: float, groups: int) -> None:
    assert least_groups(confidence) == groups


@pytest.mark.parametrize(
    ("groups", "guaranteed"),
    [(8, None), (9, 1.0 - 1.9 / 10), (12, 1.0 - 2.2 / 13), (10_000, 0.9)],
    ids=["too few", "just enough", "a dozen", "very many"],
)
def test_what_groups_bear_out_is_guaranteed_for_less_of_one_more(groups: int, guaranteed: float | None) -> None:
    found = guaranteed_confidence(groups, 0.9)
    assert found == (guaranteed if guaranteed is None else pytest.approx(guaranteed, abs=1e-4))


def test_few_groups_do_not_bear_out_an_inflation_below_one() -> None:
    # Whatever is predicted to keep its limits does.
    some = case(9)
    safe = CalibrationCase(some.margin, some.margin > 0.0, some.cost, some.groups)
    few = CalibrationCase(*(getattr(safe, name)[safe.groups != "g00"] for name in ("margin", "kept", "cost", "groups")))
    assert (fit_inflation([safe], 0.9).value, fit_inflation([few], 0.9).value) == (LEAST, 1.0)
    assert fit_inflation([few], 0.9).guaranteed is None


def test_where_groups_are_enough_large_ones_do_not_speak_for_all() -> None:
    # Nine groups of one pick each, two of which break a limit, and one of a hundred picks that keep theirs.
    groups = np.array([*(f"small {i}" for i in range(9)), *["large"] * 100])
    kept = ~np.isin(groups, ["small 0", "small 1"])
    most = CalibrationCase(np.full((109, 1), 2.0), kept[:, None], np.ones((109, 1)), groups)
    assert fit_inflation([most], 0.9).value == math.inf
    assert fit_inflation([most], 0.8).value == LEAST


@pytest.mark.parametrize(
    ("broken", "value"),
    [
        pytest.param([4.0], 1.0, id="the last pick of all"),
        pytest.param([1.0, 4.0], 2.0, id="two of all nine"),
        pytest.param([1.0, 2.0, 4.0], np.inf, id="all of a group: a third of what keeps two"),
    ],
)
def test_what_few_picks_are_left_under_larger_inflations_decides_nothing(broken: list[float], value: float) -> None:
    # Three groups with tasks at two margins, and one of the first group's that no other group reaches.
    margins = [1.0, 2.0, 4.0, 1.0, 2.0, 2.0, 1.0, 2.0, 2.0]
    groups = np.array(["a", "a", "a", "b", "b", "b", "c", "c", "c"])
    kept = np.array([not (group == "a" and each in broken) for group, each in zip(groups, margins, strict=True)])
    few = CalibrationCase(np.array(margins)[:, None], kept[:, None], np.ones((9, 1)), groups)
    assert fit_inflation([few], 0.8).value == value


@pytest.mark.parametrize(
    ("picks", "value"),
    [
        pytest.param(9, 1.0, id="one broken pick of 37, a group's only one: a fortieth and not a fifth"),
        pytest.param(2, np.inf, id="one broken pick of 9"),
    ],
)
def test_of_few_groups_every_pick_counts_alike(picks: int, value: float) -> None:
    groups = np.array(["odd", *(name for name in "abcd" for _ in range(picks))])
    kept = groups != "odd"
    few = CalibrationCase(np.ones((len(groups), 1)), kept[:, None], np.ones((len(groups), 1)), groups)
    fitted = fit_inflation([few], 0.9)
    assert fitted.groups == 5
    assert fitted.value == value


def test_a_held_out_decision_is_judged_on_groups_that_its_calibration_never_saw() -> None:
    some = case(20)
    found = held_out_decision(some, 0.9)
    assert found.guaranteed == guaranteed_confidence(19, 0.9)
    assert found.violation_rate <= 0.1
    assert held_out_decision(some, 0.97).violation_rate == pytest.approx(0.03, abs=0.01)
    assert found.uncalibrated_violation_rate > 0.06
    assert 0.0 < found.false_refusal_rate <= found.refusal_rate < 0.5
    assert (found.groups, found.tasks) == (20, 1200)
    # One group that breaks whatever it takes: the others' inflation does not know that.
    odd = CalibrationCase(some.margin, some.kept & (some.groups != "g00")[:, None], some.cost, some.groups)
    assert held_out_decision(odd, 0.9).violation_rate > found.violation_rate
    with pytest.raises(UndefinedMetricError):
        held_out_decision(case(1), 0.9)


def test_groups_without_picks_do_not_make_those_of_others_look_safe() -> None:
    # Eleven groups each have a candidate that breaks its limit 15 times in a hundred, nine refuse whatever is asked.
    rng = np.random.default_rng(0)
    some = case(20)
    taken = np.isin(some.groups, [f"g{i:02}" for i in range(11)])
    kept = np.zeros_like(some.kept)
    kept[:, 0] = rng.random(len(kept)) < 0.85
    margin = np.full_like(some.margin, -np.inf)
    margin[taken, 0] = 1.0
    quiet = CalibrationCase(margin, kept, some.cost, some.groups)
    assert fit_inflation([quiet], 0.9).value == math.inf  # although the mean over all twenty is under a tenth
    fitted = fit_inflation([quiet], 0.8)
    assert fitted.value == LEAST
    assert (fitted.groups, fitted.groups_with_picks) == (20, 11)
    broke = [1.0 - kept[some.groups == f"g{i:02}", 0].mean() for i in range(11)]
    assert fitted.violation_rate == pytest.approx(np.mean(broke))
    judged = held_out_decision(quiet, 0.8)
    assert (judged.groups, judged.groups_with_picks) == (20, 11)
    assert judged.violation_rate == judged.uncalibrated_violation_rate == pytest.approx(np.mean(broke))


def test_cases_of_unequal_width_are_calibrated_together() -> None:
    first, second = case(12), case(12, seed=1)
    narrow = CalibrationCase(first.margin[:, :3], first.kept[:, :3], first.cost[:, :3], first.groups)
    padded = CalibrationCase(
        np.pad(narrow.margin, ((0, 0), (0, 7)), constant_values=-np.inf),
        np.pad(narrow.kept, ((0, 0), (0, 7))),
        np.pad(narrow.cost, ((0, 0), (0, 7)), constant_values=np.inf),
        narrow.groups,
    )
    names = ("margin", "kept", "cost", "groups")
    whole = CalibrationCase(*(np.concatenate([getattr(padded, n), getattr(second, n)]) for n in names))
    assert fit_inflation([narrow, second], 0.8) == fit_inflation([whole], 0.8)


def test_without_any_pick_no_share_of_picks_exists() -> None:
    hopeless = case(12)
    hopeless = CalibrationCase(np.full_like(hopeless.margin, -np.inf), hopeless.kept, hopeless.cost, hopeless.groups)
    fitted, judged = fit_inflation([hopeless], 0.9), held_out_decision(hopeless, 0.9)
    assert math.isnan(fitted.violation_rate) and math.isnan(judged.violation_rate)
    assert fitted.groups_with_picks == judged.groups_with_picks == 0
    assert fitted.refusal_rate == judged.refusal_rate == 1.0
    text = calibration_section({"predictor": judged}, about="rate", confidence=0.9)
    assert "| - | <= 10% | - |" in text
    assert "0 of 12" in text


def test_where_nothing_keeps_its_limits_all_is_refused() -> None:
    hopeless = case(12)
    hopeless = CalibrationCase(hopeless.margin, np.zeros_like(hopeless.kept), hopeless.cost, hopeless.groups)
    fitted = fit_inflation([hopeless], 0.9)
    assert fitted.value == math.inf
    assert fitted.refusal_rate == 1.0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 30), more=st.floats(0.0, 0.2))
def test_more_confidence_never_needs_less_inflation(seed: int, more: float) -> None:
    some = case(12, seed, each=10)
    assert fit_inflation([some], 0.75 + more).value >= fit_inflation([some], 0.75).value
