"""Judges predictors, simulator and selectors on the rows of `metainf bench --plan study`: do their picks win?

    metainf bench --calibrate --python PYTHON --out DATA
    metainf bench --plan study --python PYTHON --resident 12 --out build/study --minutes 110 --report DATA
    python benchmarks/cpu_study.py DATA --calibration DATA/accelerator.json --out DATA/predictors.md

DATA is data/cpu_study. The first two run on the same idle machine, the second again until nothing is left to run. The
page is a file of its own, since every report of the bench writes its README.md anew. With --corpus FOLDER --world NAME
selectors that learn are also judged with this machine's rows left out, with --predictor FILE a trained predictor is.

Definitions are those of `metainf.evaluation.metrics`. "Left out": nothing was learnt from this machine's rows. "In":
learnt from them, but never from those of the judged model, each model in turn. The datasheet's share, and with
--calibration the machine's own measure, stand under the analytical predictor and under the simulator.
"""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path

import numpy as np
from cpu_study_guesses import Guess, fitted, left_out, predicted, simulated
from cpu_study_learners import LARGE_GROUPS, LEARNERS, LEAST_FOR_GROUPS, Learner, corpus_tables, learners
from cpu_study_picks import Line, Share, considered, line, operator_choice, references
from cpu_study_rows import Study, Truth, read_study

from metainf.artifact import load_predictor
from metainf.bench.calibration import read_calibration
from metainf.corpus.task import TrafficKind
from metainf.efficiencies import Efficiency, efficiency_of
from metainf.evaluation import metrics
from metainf.evaluation.bootstrap import LEAST_GROUPS, Interval
from metainf.selection import TIE_RATIO
from metainf.selectors.contract import MethodTable, choose

_FIGURES = ("TTFT", "TPOT", "tokens/s")
_TITLES = {
    TrafficKind.CONCURRENCY: "Clients that wait for their answers",
    TrafficKind.BATCH: "Batches, all requests at once",
}
_DEFINITIONS = """\
Performance P is output tokens per second of clients that wait for their answers, and 1 / makespan of a batch. A method
of which a run did not complete has P = 0, and a pick of it scores a tenth of the default. A pick is right where it is
within the task's tolerance of the best: the larger of 2 % and twice the standard deviation of the ratio to the default
over repeats, in the median over methods. Strict: it is the simplest method within the tolerance. Decisive tasks: the
default is worse than the best by more than twice the tolerance. Regret: the share of the best P that is lost.
Acceleration: geometric mean of P over the default's. "Left out": nothing was learnt from this machine's rows. "In":
learnt from them, but never from those of the judged model, each model in turn; others of its kind, as the study's two
dense models are, stay in."""
_CONDITIONS = """\
The bench empties the prefix cache before each round, sends 6 to 128 requests of clients or a batch once, and gives
prefixes out in turn. The simulator serves the same requests in the same order, cold, and is counted over the whole run,
as the rows are. The analytical predictor answers for the declared traffic: clients go on for long and have met every
prefix before, and those of a batch are drawn at random, so that it expects hits in a batch of 4 that has none. So
prompts with shared prefixes have errors of their own below."""


@dataclass(frozen=True)
class _Said:
    """What one says of all questions, and whether it learnt from this machine's rows."""

    name: str
    rows: str
    guesses: Mapping[TrafficKind, Guess]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the page, and write it where asked."""
    args = _parser().parse_args(argv)
    text = "\n".join(judged(args))
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what metainf bench --report wrote")
    parser.add_argument("--calibration", type=Path, help="of metainf bench --calibrate on the same machine")
    parser.add_argument("--corpus", type=Path, help="what selectors learn from when the CPU's rows are left out")
    parser.add_argument("--world", help="of the corpus")
    parser.add_argument("--most-tasks", type=int, help="of the corpus, of each kind of load, evenly")
    parser.add_argument("--predictor", type=Path, help="a trained predictor's file")
    parser.add_argument(
        "--learners", nargs="+", choices=LEARNERS, default=LEARNERS, metavar="NAME", help=f"of {', '.join(LEARNERS)}"
    )
    parser.add_argument("--out", type=Path, help="write what is printed into this file")
    return parser


def judged(args: argparse.Namespace) -> Iterator[str]:
    """The page, as Markdown."""
    study = read_study(args.folder)
    yield from _preface(study)
    if not study.truths:
        yield from ("", "Nothing can be judged yet: no task's default has completed.")
        return
    yield from _missing(args)
    tables = {kind: truth.table() for kind, truth in study.truths.items()}
    corpora: Mapping[TrafficKind, MethodTable] = {}
    if args.corpus is not None:
        like = {kind: table.tasks for kind, table in tables.items()}
        corpora = corpus_tables(args.corpus, like, world=args.world, most_tasks=args.most_tasks)
    said = list(_said(study, args))
    for kind, truth in study.truths.items():
        found = list(learners(tables[kind], args.learners, corpora.get(kind)))
        yield from _head(truth, tables[kind])
        yield from _all_picks(truth, tables[kind], said, found)
        yield from _without_picks(found, len(tables[kind]), corpora.get(kind))
        yield from _errors(truth, said)


def _said(study: Study, args: argparse.Namespace) -> Iterator[_Said]:
    """Of predictors and of the simulator, over datasheet, calibration and fitted constants."""
    models = _models(study.truths.values())
    start = efficiency_of(study.accelerator.generation, cpu=study.accelerator.cpu is not None)
    over = study
    yield from _both("datasheet", "left out", study, dict.fromkeys(models, start))
    if args.predictor is not None:
        trained = load_predictor(args.predictor)
        yield _Said("trained predictor", "left out", {k: predicted(t, trained) for k, t in study.truths.items()})
    if args.calibration is not None:
        calibration = read_calibration(args.calibration)
        start, over = calibration.efficiency, read_study(args.folder, calibration.accelerator)
        yield from _both("calibrated", "left out", over, dict.fromkeys(models, start))
    if len(models) > 1:
        truths = list(over.truths.values())
        yield from _both("fitted", "in", over, {name: fitted(truths, start, without=name) for name in models})


def _both(what: str, rows: str, study: Study, constants: dict[str, Efficiency]) -> Iterator[_Said]:
    truths = study.truths.items()
    yield _Said(f"analytical, {what}", rows, {kind: left_out(truth, constants) for kind, truth in truths})
    found = {kind: simulated(truth, constants.__getitem__) for kind, truth in truths}
    yield _Said(f"simulator, {what}", rows, found)


def _models(truths: Iterable[Truth]) -> list[str]:
    return sorted({name for truth in truths for name in truth.model.tolist()})


def _preface(study: Study) -> Iterator[str]:
    yield "# Do the picks for a CPU win?"
    yield ""
    count = len(_models(study.truths.values()))
    tasks = sum(len(truth.tasks) for truth in study.truths.values())
    yield (
        f"Predictors, simulator and selectors against what `metainf bench` measured: {tasks} tasks of {count} models "
        f"on {study.machine.summary}. Written by `benchmarks/cpu_study.py`."
    )
    yield ""
    yield _DEFINITIONS
    if count >= LEAST_GROUPS:
        yield ""
        yield (
            f"In brackets 95 % intervals by drawing whole models. Of {count} models there are "
            f"{comb(2 * count - 1, count)} different draws, so these are rough, and one without width says nothing."
        )
    yield ""
    yield _CONDITIONS
    if study.left_out:
        yield ""
        yield f"Left out, since their default never completed: {', '.join(study.left_out)}."


def _missing(args: argparse.Namespace) -> Iterator[str]:
    """What cannot be said for want of what was not given."""
    lines = []
    if args.corpus is None:
        lines.append(
            f"No corpus was given (`--corpus`), so what selectors that learn ({', '.join(args.learners)}) pick with "
            "this machine's rows left out cannot be said: they are judged with the rows in alone."
        )
    if args.predictor is None:
        lines.append("No trained predictor was given (`--predictor`): it is not judged.")
    if args.calibration is None:
        lines.append("No calibration was given (`--calibration`): nothing is said over the machine's own measure.")
    else:
        lines.append(
            "Calibrated: over what `metainf bench --calibrate` measured of the machine's memory and arithmetic, which "
            "is none of these rows; attention and the engine's own work keep the constants that are assumed of CPUs."
        )
    lines.append(
        "Fitted: nine constants of the roofline by what the analytical predictor missed of the other models' rows; the "
        "simulator takes the same."
    )
    for each in lines:
        yield ""
        yield each


def _head(truth: Truth, table: MethodTable) -> Iterator[str]:
    yield ""
    yield f"## {_TITLES[truth.kind]}: {len(truth.tasks)} tasks of {len(_models([truth]))} models"
    yield ""
    yield (
        f"Tolerance: {np.median(truth.tolerance):.0%} in the median, {truth.tolerance.min():.0%} to "
        f"{truth.tolerance.max():.0%}."
    )
    if truth.unfinished:
        yield f"Of these a run did not complete, so P = 0: {', '.join(truth.unfinished)}."
    measured = np.isfinite(table.performance).any(axis=0)
    names = [name for name, found in zip(table.tasks.methods, measured.tolist(), strict=True) if found]
    yield f"Methods that were measured: {', '.join(names)}."


def _all_picks(truth: Truth, table: MethodTable, said: Sequence[_Said], found: Sequence[Learner]) -> Iterator[str]:
    """Both tables of picks."""
    usual = considered(table, truth.methods)
    is_batch = truth.kind is TrafficKind.BATCH
    yield ""
    yield "### As the operator chooses"
    yield ""
    yield (
        "Among methods that are not experimental, for the most throughput; of what a predictor or the simulator puts "
        f"within {TIE_RATIO:.0%} the simpler, then the name. Selectors' scores have no unit: the highest is taken."
    )
    yield from _winners(usual)
    lines = [*references(usual)]
    for each in said:
        chosen = operator_choice(usual.tasks, each.guesses[truth.kind][0], is_batch=is_batch)
        lines.append(line(each.name, each.rows, usual, chosen))
    yield from _picked([*lines, *_of_learners(usual, found)])
    yield ""
    yield "### Among all methods measured"
    yield ""
    yield "The best that is predicted, whatever comes next."
    yield from _winners(table)
    lines = [*references(table)]
    for each in said:
        guess = each.guesses[truth.kind][0]
        scores = np.where(table.tasks.feasible & np.isfinite(guess), guess, -np.inf)
        lines.append(line(each.name, each.rows, table, choose(table.tasks, scores)))
    yield from _picked([*lines, *_of_learners(table, found)])


def _of_learners(table: MethodTable, found: Sequence[Learner]) -> Iterator[Line]:
    for each in found:
        if each.by_model:
            yield line(each.name, each.rows, table, each.picks(table.tasks))


def _winners(table: MethodTable) -> Iterator[str]:
    """Which methods win: what there was to be right about."""
    label = metrics.labels(table)
    counts = Counter(table.tasks.methods[column] for column in label.tolist() if column >= 0)
    decisive = int(metrics.decisive(table).sum())
    won = ", ".join(f"{name} {count}" for name, count in counts.most_common())
    yield (
        f"Winners, the simplest within the tolerance: {won}. Decisive: {decisive} of {len(table)} tasks; on the others "
        "the default is within twice the tolerance of the best."
    )


def _picked(lines: Sequence[Line]) -> Iterator[str]:
    yield ""
    yield "| picks of | this machine's rows | right | strict | right on decisive | regret | p95 | acceleration |"
    yield "|---|---|---|---|---|---|---|---|"
    for each in lines:
        shares = " | ".join(_share(share) for share in (each.right, each.strict, each.decisive))
        numbers = f"{_interval(each.regret)} | {_number(each.regret_p95)} | {_number(each.acceleration)}"
        yield f"| {each.name} | {each.rows} | {shares} | {numbers} |"


def _share(share: Share) -> str:
    if not share.of:
        return "-"
    return f"{share.count}/{share.of}{_brackets(share.interval)}"


def _interval(found: Interval) -> str:
    return f"{_number(found.value)}{_brackets(found)}"


def _brackets(found: Interval) -> str:
    return f" ({found.low:.2f} to {found.high:.2f})" if np.isfinite(found.low) else ""


def _number(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "-"


def _without_picks(found: Sequence[Learner], tasks: int, corpus: MethodTable | None) -> Iterator[str]:
    """Who could not learn, and who could learn next to nothing."""
    for each in found:
        if not each.by_model:
            yield ""
            yield f"Too few rows for {each.name} (rows {each.rows}): {each.why_not}."
    large = [each.name for each in found if each.by_model and each.name in LARGE_GROUPS]
    if large and corpus is None and tasks < LEAST_FOR_GROUPS:
        yield ""
        yield (
            f"{', '.join(large)}: their clusters or leaves hold at least 20 tasks, so that learning from fewer than "
            f"{LEAST_FOR_GROUPS} they say the same of every task."
        )


def _errors(truth: Truth, said: Sequence[_Said]) -> Iterator[str]:
    """Median absolute error and bias of each figure over pairs of task and method, by whether prefixes are shared."""
    shared = np.array([task.traffic.shared_prefix is not None for task in truth.tasks], dtype=np.bool_)
    yield ""
    yield "### Errors"
    yield ""
    yield (
        "Of means over requests, over all pairs of task and method. Error: the median of |said / measured - 1|; bias: "
        "the median of said / measured, less 1."
    )
    for title, mine in (("Prompts that share nothing", ~shared), ("Prompts with shared prefixes", shared)):
        if not mine.any():
            continue
        yield ""
        yield f"{title}, {int(mine.sum())} tasks:"
        yield ""
        yield f"| said by | this machine's rows | pairs | {' | '.join(f'{n} error | bias' for n in _FIGURES)} |"
        yield "|---|---|---|" + "---|" * (2 * len(_FIGURES))
        for each in said:
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = (each.guesses[truth.kind][1] / truth.figures)[mine]
            pairs = int(np.isfinite(ratio[..., 0]).sum())
            cells = " | ".join(_error(ratio[..., place]) for place in range(len(_FIGURES)))
            yield f"| {each.name} | {each.rows} | {pairs} | {cells} |"


def _error(ratio: np.ndarray) -> str:
    known = ratio[np.isfinite(ratio)]
    if not len(known):
        return "- | -"
    return f"{np.median(np.abs(known - 1.0)):.0%} | {np.median(known) - 1.0:+.0%}"


if __name__ == "__main__":
    main()
