"""How good a choice can be for who knows everything but the truth: what the figures of `metainf evaluate` stand under.

    python -m benchmarks.selection_ceiling --corpus FOLDER --world own --kind rate [--tasks 60] [--worlds 6] [--jobs 2]

The ceiling that `metainf evaluate` prints is that of noise: choose by half of a task's seeds, score by the other half.
Above most selectors stands another. How fast an accelerator's kernels are is hidden, and of an accelerator that nobody
has measured only the distribution is known. So each task is simulated here in other hidden worlds of that distribution,
with other draws of lengths, arrivals and acceptance, and the method is chosen that has the highest mean over these of
log(P / P[default]), a loss counted as the metrics count it: limits are those of the evaluation, its budgets included,
and the single best is that of the folds' train halves. Who has seen neither the accelerator nor the model cannot
expect to choose better, and to know even this much takes a simulation of every method in every world: minutes a choice.
Who has seen one of them, as where models alone are held out, can be better.

Separate from the evaluation, which compares what can be had in milliseconds.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np

from metainf.corpus.measuring import measured_task
from metainf.corpus.tables import load_rows, load_truth
from metainf.corpus.task import Task, TrafficKind
from metainf.evaluation.bootstrap import GroupDraws, Interval, interval_of_sums
from metainf.evaluation.budgets import usd_of
from metainf.evaluation.groups import model_groups
from metainf.evaluation.metrics import PENALTY_RATIO, decisive, log_gain, tolerant_accuracy, virtual_best
from metainf.evaluation.outcomes import SINGLE_BEST, Evidence, reference_outcomes
from metainf.evaluation.promises import keeps_promises
from metainf.evaluation.splits import SplitKind, split
from metainf.evaluation.within_limits import LIMIT_COLUMNS, allowed_usd, with_limits
from metainf.measurements import Purpose
from metainf.selectors.contract import BoolArray, FloatArray, IntArray, choose
from metainf.step_times.worlds import HiddenWorld

_FIRST_WORLD = 1000  # none of these is a truth of a corpus
_FIRST_REPEAT = 1000  # nor are these draws
_TABLE = "table:"


def performance_elsewhere(
    task: Task, methods: Sequence[str], number: int, allowed: float = np.inf
) -> tuple[list[float], list[bool]]:
    """Performance of the methods in another world under other draws, and whether a limit is broken there.

    NaN where a method cannot run. `allowed` is what may be spent, in the unit of the task's budget.
    """
    world, repeat = HiddenWorld(_FIRST_WORLD + number), _FIRST_REPEAT + number
    rows = [row for row in measured_task(task, world, repeats=[repeat]) if row.purpose is Purpose.SCORE]
    scores = {row.method: {name: getattr(row, name) for name in LIMIT_COLUMNS} for row in rows}
    known = [scores.get(name) for name in methods]
    performance = [np.nan if row is None or row["performance"] is None else float(row["performance"]) for row in known]
    lost = [row is not None and not (keeps_promises(task, row) and usd_of(task, row) <= allowed) for row in known]
    return performance, lost


def expected_gain(performance: FloatArray, default: int, lost: BoolArray | None = None) -> FloatArray:
    """Mean over worlds of log(P / P[default]), shape (n, m); 0 for all where the default works in none.

    Parameters
    ----------
    performance : array of shape (n, worlds, m)
        0 where a method breaks its promises, NaN where it cannot run: such a method is -inf.
    lost : array of shape (n, worlds, m), bool, or None
        What breaks another limit there.
    """
    base = performance[:, :, [default]]
    kept = performance > 0.0 if lost is None else (performance > 0.0) & ~lost
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.log(np.where(kept, performance / base, PENALTY_RATIO))
    gain = np.where(base > 0.0, gain, np.nan)
    counted = np.isfinite(gain)
    mean = np.where(counted, gain, 0.0).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
    return np.where(np.isnan(performance).all(axis=1), -np.inf, mean)


def gap_interval(evidence: Evidence, chosen: IntArray, single: IntArray) -> Interval:
    """The closed gap with its interval over families of models."""
    table, broken = evidence.table, evidence.broken
    mine, low, high = (log_gain(table, each, broken) for each in (chosen, single, virtual_best(table, broken)))
    known = np.isfinite(mine) & np.isfinite(low) & np.isfinite(high)
    columns = np.where(known[:, None], np.stack([mine - low, high - low], axis=1), 0.0)
    named = model_groups(table.tasks.model.tolist())
    groups = np.array([named[each] for each in table.tasks.model.tolist()], dtype=np.str_)
    with np.errstate(divide="ignore", invalid="ignore"):
        return interval_of_sums(columns, lambda sums: sums[..., 0] / sums[..., 1], GroupDraws([groups]))


@dataclass(frozen=True)
class Sample:
    """The tasks that are simulated: `single` is the single best of each one's train half, a column.

    `allowed` is what may be spent on each, `of_tables` whether its truth is a measured table, for which other hidden
    worlds are the wrong distribution.
    """

    evidence: Evidence
    tasks: tuple[Task, ...]
    single: IntArray
    allowed: FloatArray
    of_tables: BoolArray


def sample(corpus: Path, world: str, kind: TrafficKind, count: int, most: int) -> Sample:
    """So many tasks evenly over `most` of the corpus, which the single best is fixed on as in an evaluation."""
    truth = load_truth(corpus, world=world, most_tasks=most)[kind]
    rows = load_rows(corpus, world=world, purpose=Purpose.SCORE)
    world_of = dict(zip(rows.column("task").to_pylist(), rows.column("world").to_pylist(), strict=True))
    scores = rows.select([*LIMIT_COLUMNS, "source", "purpose"])
    limited = with_limits(Evidence(truth.table), truth.tasks, scores)
    keys = limited.table.tasks.keys
    assert keys is not None, "tables of a corpus name their tasks"
    row_of = {task.key: row for row, task in enumerate(truth.tasks)}
    kept = np.array([row_of[key] for key in keys.tolist()], dtype=np.intp)
    folds = split(limited.table.tasks, SplitKind.MODEL)
    found = next(each for each in reference_outcomes(limited, folds) if each.selector == SINGLE_BEST)
    single = np.full(len(limited), limited.table.tasks.default, dtype=np.intp)
    single[found.judged] = found.chosen
    taken = np.unique(np.linspace(0, len(limited) - 1, count).astype(np.intp))
    tasks = tuple(truth.tasks[row] for row in kept[taken].tolist())
    return Sample(
        evidence=limited.rows(taken),
        tasks=tasks,
        single=single[taken],
        allowed=allowed_usd(truth.table, truth.tasks, scores)[kept[taken]],
        of_tables=np.array([world_of[task.key].startswith(_TABLE) for task in tasks], dtype=np.bool_),
    )


def figures(asked: Sample, performance: FloatArray, lost: BoolArray) -> Iterator[str]:
    """A line for each scope and sort of truth, by the mean over 2, 4 ... worlds: fewer say too little, so it rises."""
    evidence = asked.evidence
    tasks, broken = evidence.table.tasks, evidence.broken
    scopes = {"all": np.ones(len(tasks), dtype=np.bool_), "decisive": decisive(evidence.table, broken)}
    truths = {"hidden worlds": ~asked.of_tables, "tables": asked.of_tables}
    worlds = performance.shape[1]
    for used in sorted({*range(2, worlds, 2), worlds}):
        gain = expected_gain(performance[:, :used], tasks.default, lost[:, :used])
        chosen = choose(tasks, np.where(tasks.feasible, gain, -np.inf))
        for scope, counted in scopes.items():
            for truth, of in truths.items():
                part = np.flatnonzero(counted & of)
                if not len(part):
                    continue
                mine = evidence.rows(part)
                gap = gap_interval(mine, chosen[part], asked.single[part])
                accuracy = tolerant_accuracy(mine.table, chosen[part], mine.broken)
                yield (
                    f"{used} worlds  {truth:<13} {scope:<9} {len(part):>4} tasks  closed gap {gap.value:.3f} "
                    f"({gap.low:.3f} to {gap.high:.3f} over families)  accuracy {accuracy:.3f}"
                )


def main() -> None:
    """Print the figures of the choice on all tasks, and on the decisive ones."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--world", default="own")
    parser.add_argument("--kind", type=TrafficKind, choices=list(TrafficKind), required=True)
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--compared-tasks", type=int, default=2000, help="that the single best is fixed on")
    parser.add_argument("--worlds", type=int, default=6)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    begun_s = time.monotonic()
    asked = sample(args.corpus, args.world, args.kind, args.tasks, args.compared_tasks)
    methods = asked.evidence.table.tasks.methods
    found = joblib.Parallel(n_jobs=args.jobs)(
        joblib.delayed(performance_elsewhere)(task, methods, number, allowed)
        for task, allowed in zip(asked.tasks, asked.allowed.tolist(), strict=True)
        for number in range(args.worlds)
    )
    shape = len(asked.tasks), args.worlds, len(methods)
    performance = np.array([each for each, _ in found], dtype=np.float64).reshape(shape)
    lost = np.array([each for _, each in found], dtype=np.bool_).reshape(shape)
    print(f"{args.kind}, {args.world}: {len(asked.tasks)} tasks, by mean gain over other worlds")
    for line in figures(asked, performance, lost):
        print(line)
    print(f"{time.monotonic() - begun_s:.0f} s, {args.jobs} processes")


if __name__ == "__main__":
    main()
