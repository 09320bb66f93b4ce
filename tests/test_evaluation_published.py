"""The papers' figure asked again: one place and one traffic, so that along a line the batch alone differs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from metainf.corpus.task import TrafficKind
from metainf.evaluation.published import PublishedPoint, PublishedSweep
from metainf.evaluation.published_sweep import published_sweep
from metainf.evaluation.report import Evaluation, KindReport, with_published
from metainf.evaluation.report_files import write_report
from metainf.methods import Reading
from metainf.predictors.contract import ReplicaSpec
from metainf.simulator.contract import HostTimes, StepTimes
from metainf.step_times.worlds import HiddenWorld

ROWS = ("prefix caching", "chunked prefill", "continuous batching", "all combined")
WORLD = HiddenWorld(0)


@pytest.fixture(scope="module")
def sweep() -> PublishedSweep:
    found = published_sweep(WORLD, TrafficKind.BATCH, most=8)
    assert found is not None
    return found


def by_row(sweep: PublishedSweep, reading: Reading, size: float) -> Mapping[str, float]:
    return {p.row: p.performance for p in sweep.points if p.reading is reading and p.batch_size == size}


def test_every_size_has_all_rows_under_both_readings(sweep: PublishedSweep) -> None:
    assert sweep.sizes == (1.0, 2.0, 4.0, 8.0)
    for reading in Reading:
        for size in sweep.sizes:
            assert tuple(by_row(sweep, reading, size)) == ROWS
    assert "world:0" in sweep.about and "H100-SXM-80GB" in sweep.about


def test_batching_pays_only_where_requests_come_together(sweep: PublishedSweep) -> None:
    alone = by_row(sweep, Reading.ALONE, 8.0)
    assert alone["continuous batching"] > 2.0 * alone["chunked prefill"]
    one = by_row(sweep, Reading.ALONE, 1.0)
    assert one["continuous batching"] == pytest.approx(one["chunked prefill"], rel=0.1)
    best = sweep.best(Reading.ALONE, 8.0)
    assert best and {point.row for point in best} <= {"continuous batching", "all combined"}
    assert sweep.best(Reading.ALONE, 3.0) == ()


def test_rows_that_one_draw_does_not_tell_apart_are_named_together() -> None:
    speeds = dict(zip(ROWS, (99.0, 97.0, 100.0, 98.5), strict=True))
    points = tuple(PublishedPoint(Reading.ALONE, row, 4.0, speed) for row, speed in speeds.items())
    best = PublishedSweep("of one place", points).best(Reading.ALONE, 4.0)
    assert [point.performance for point in best] == [100.0, 99.0, 98.5]


def test_a_batch_of_more_takes_longer(sweep: PublishedSweep) -> None:
    for reading in Reading:
        for row in ROWS:
            rates = [by_row(sweep, reading, size)[row] for size in sweep.sizes]
            assert rates == sorted(rates, reverse=True)


def test_equal_worlds_give_equal_points(sweep: PublishedSweep) -> None:
    assert published_sweep(HiddenWorld(0), TrafficKind.BATCH, most=8) == sweep
    assert published_sweep(HiddenWorld(1), TrafficKind.BATCH, most=1) != published_sweep(
        WORLD, TrafficKind.BATCH, most=1
    )


def test_more_clients_get_more_tokens_by_batching() -> None:
    found = published_sweep(WORLD, TrafficKind.CONCURRENCY, most=2)
    assert found is not None
    rates = [by_row(found, Reading.ON_BATCHING, size)["all combined"] for size in found.sizes]
    assert rates[1] > 1.5 * rates[0]


@dataclass(frozen=True)
class Ignorant(HiddenWorld):
    """Knows of nothing."""

    def times(self, replica: ReplicaSpec, seed: int) -> tuple[StepTimes, HostTimes] | None:
        return None


def test_there_is_no_figure_for_rates_or_for_a_world_that_knows_nothing_of_the_place() -> None:
    assert published_sweep(WORLD, TrafficKind.RATE, most=2) is None
    assert published_sweep(Ignorant(0), TrafficKind.BATCH, most=2) is None


def test_a_report_shows_it_and_says_of_what_it_is(tmp_path: Path) -> None:
    points = tuple(
        PublishedPoint(reading, row, size, 1.0 + place)
        for reading in Reading
        for place, row in enumerate(ROWS)
        for size in (1.0, 2.0)
    )
    report = KindReport(TrafficKind.BATCH, 10, 0.5, 4, (), {})
    plain = Evaluation("metainf", (report, replace(report, kind=TrafficKind.RATE)), 1.0)
    both = with_published(plain, {TrafficKind.BATCH: PublishedSweep("of one place", points)})
    assert [each.published is None for each in both.kinds] == [False, True]
    written = write_report(both, tmp_path)
    text = written[0].read_text()
    assert "of one place" in text
    assert "| 2 | all combined | all combined |" in text
    assert "](published-figure-batch.png)" in text and (tmp_path / "published-figure-batch.png") in written
