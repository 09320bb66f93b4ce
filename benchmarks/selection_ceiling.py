"""How good a choice can be for who knows everything but the truth: what the figures of `metainf evaluate` stand under.

    python -m benchmarks.selection_ceiling --corpus FOLDER --world own --kind rate [--tasks 60] [--worlds 6] [--jobs 2]

The ceiling that `metainf evaluate` prints is that of noise: choose by half of a task's seeds, score by the other half.
Above most selectors stands another. How fast an accelerator's kernels are is hidden, and of an accelerator that nobody
has measured only the distribution is known. So each task is simulated here in other hidden worlds of that distribution,
with other draws of lengths, arrivals and acceptance, and the method is chosen that has the highest mean over these of
log(P / P[default]), a loss counted as the metrics count it. Who has seen neither the accelerator nor the model cannot
expect to choose better, and to know even this much takes a simulation of every method in every world: minutes a choice.
Who has seen one of them, as where models alone are held out, can be better.

Separate from the evaluation, which compares what can be had in milliseconds.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import joblib
import numpy as np

from metainf.corpus.measuring import measured_task
from metainf.corpus.tables import load_truth
from metainf.corpus.task import Task, TrafficKind
from metainf.evaluation.bootstrap import GroupDraws, Interval, interval_of_sums
from metainf.evaluation.metrics import (
    PENALTY_RATIO,
    closed_gap,
    decisive,
    log_gain,
    single_best,
    single_best_choice,
    tolerant_accuracy,
    virtual_best,
)
from metainf.measurements import Purpose
from metainf.selectors.contract import FloatArray, IntArray, MethodTable, choose
from metainf.step_times.worlds import HiddenWorld

_FIRST_WORLD = 1000  # none of these is a truth of a corpus
_FIRST_REPEAT = 1000  # nor are these draws


def performance_elsewhere(task: Task, methods: Sequence[str], number: int) -> list[float]:
    """Performance of the methods in another world under other draws; NaN where a method cannot run."""
    world, repeat = HiddenWorld(_FIRST_WORLD + number), _FIRST_REPEAT + number
    rows = [row for row in measured_task(task, world, repeats=[repeat]) if row.purpose is Purpose.SCORE]
    found = {row.method: row.performance for row in rows}
    return [np.nan if found.get(name) is None else float(found[name]) for name in methods]


def expected_gain(performance: FloatArray, default: int) -> FloatArray:
    """Mean over worlds of log(P / P[default]), shape (n, m); 0 for all where the default works in none.

    Parameters
    ----------
    performance : array of shape (n, worlds, m)
        0 where a method breaks its promises, NaN where it cannot run: such a method is -inf.
    """
    base = performance[:, :, [default]]
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.log(np.where(performance > 0.0, performance / base, PENALTY_RATIO))
    gain = np.where(base > 0.0, gain, np.nan)
    counted = np.isfinite(gain)
    mean = np.where(counted, gain, 0.0).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
    return np.where(np.isnan(performance).all(axis=1), -np.inf, mean)


def gap_interval(table: MethodTable, chosen: IntArray, single: int) -> Interval:
    """The closed gap with its interval over models."""
    mine, low, high = (
        log_gain(table, each) for each in (chosen, single_best_choice(table, single), virtual_best(table))
    )
    known = np.isfinite(mine) & np.isfinite(low) & np.isfinite(high)
    columns = np.where(known[:, None], np.stack([mine - low, high - low], axis=1), 0.0)
    return interval_of_sums(columns, lambda sums: sums[..., 0] / sums[..., 1], GroupDraws([table.tasks.model]))


def main() -> None:
    """Print the figures of the choice on all tasks, and on the decisive ones."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--world", default="own")
    parser.add_argument("--kind", type=TrafficKind, choices=list(TrafficKind), required=True)
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--worlds", type=int, default=6)
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    begun_s = time.monotonic()
    truth = load_truth(asked.corpus, world=asked.world, most_tasks=asked.tasks)[asked.kind]
    table, methods = truth.table, truth.table.tasks.methods
    found = joblib.Parallel(n_jobs=asked.jobs)(
        joblib.delayed(performance_elsewhere)(task, methods, number)
        for task in truth.tasks
        for number in range(asked.worlds)
    )
    elsewhere = np.array(found, dtype=np.float64).reshape(len(table), asked.worlds, len(methods))
    gain = np.where(table.tasks.feasible, expected_gain(elsewhere, table.tasks.default), -np.inf)
    single = single_best(table)
    print(f"{asked.kind}, {asked.world}: {len(table)} tasks, {asked.worlds} other worlds, by mean gain over them")
    for name, part in (("all", np.ones(len(table), dtype=bool)), ("decisive", decisive(table))):
        mine, chosen = table.rows(part), choose(table.tasks, gain)[part]
        interval = gap_interval(mine, chosen, single)
        print(
            f"{name:<9} {len(mine):>4} tasks  closed gap {closed_gap(mine, chosen, single):.3f} "
            f"({interval.low:.3f} to {interval.high:.3f} over models)  accuracy {tolerant_accuracy(mine, chosen):.3f}"
        )
    print(f"{time.monotonic() - begun_s:.0f} s, {asked.jobs} processes")


if __name__ == "__main__":
    main()
