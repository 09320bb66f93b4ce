"""Judges predictors, simulator and selectors on the rows of `metainf bench --plan study`: do their picks win?

    metainf bench --plan study --python PYTHON --resident 12 --out build/study --minutes 110 --report data/cpu_study
    python benchmarks/cpu_study.py data/cpu_study [--calibration FILE] [--corpus FOLDER --world NAME] ...

Definitions are those of `metainf.evaluation.metrics`. "Left out": nothing was learnt from this machine's rows. "In":
learnt from them, but never from those of the judged model, each model in turn. The datasheet's share, and with
--calibration the machine's own measure, stand under the analytical predictor and under the simulator.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from cpu_study_guesses import Guess, fitted, left_out, predicted, simulated
from cpu_study_rows import Study, Truth, read_study

from metainf.bench.calibration import read_calibration
from metainf.corpus.task import TrafficKind
from metainf.efficiencies import Efficiency, efficiency_of
from metainf.errors import UndefinedMetricError
from metainf.evaluation import metrics
from metainf.evaluation.groups import accelerator_group
from metainf.selectors.catalogue import SELECTORS
from metainf.selectors.contract import MethodTable, TaskTable, choose

_LEARNING = (
    "nearest-neighbour",
    "alors",
    "random-forest-regressor",
    "gradient-boosting-regressor",
    "metainf-regression",
)
_FIGURES = ("TTFT", "TPOT", "tokens/s")


@dataclass(frozen=True)
class Line:
    """How the picks of one did on one kind of load."""

    name: str
    rows: str
    accuracy: float
    strict: float
    decisive_accuracy: float
    regret_mean: float
    regret_p95: float
    acceleration: float


def main() -> None:
    """Print the tables, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--calibration", type=Path, help="of metainf bench --calibrate on the same machine")
    parser.add_argument("--corpus", type=Path, help="what selectors learn from when the CPU's rows are left out")
    parser.add_argument("--world", help="of the corpus")
    parser.add_argument("--most-tasks", type=int, help="of the corpus, of each kind of load, evenly")
    parser.add_argument("--predictor", type=Path, help="a trained predictor's file")
    parser.add_argument("--out", type=Path, help="write what is printed into this file")
    args = parser.parse_args()
    text = "\n".join(judged(args))
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")


def judged(args: argparse.Namespace) -> Iterator[str]:
    """The tables, as Markdown."""
    study = read_study(args.folder)
    guesses = dict(_guesses(study, args))
    for kind, truth in study.truths.items():
        table = truth.table()
        yield from _head(kind, truth, table)
        lines = [*_references(table, truth), *_picks(table, truth, guesses, kind)]
        lines += _selected(table, truth, args, kind)
        yield from _picked(lines)
        yield ""
        yield from _errors(truth, {name: guess[kind] for name, guess in guesses.items()})


def _guesses(study: Study, args: argparse.Namespace) -> Iterator[tuple[str, dict[TrafficKind, Guess]]]:
    """By name: of the analytical predictor and of the simulator, over datasheet, calibration and fitted constants."""
    usual = efficiency_of(study.accelerator.generation, cpu=study.accelerator.cpu is not None)
    yield from _both("datasheet, rows left out", study, dict.fromkeys(_models(study), usual))
    if args.predictor is not None:
        from metainf.artifact import load_predictor

        trained = load_predictor(args.predictor)
        found = {kind: predicted(truth, trained) for kind, truth in study.truths.items()}
        yield "trained predictor, rows left out", found
    start, over = usual, study
    if args.calibration is not None:
        calibration = read_calibration(args.calibration)
        start, over = calibration.efficiency, read_study(args.folder, calibration.accelerator)
        yield from _both("calibrated, rows left out", over, dict.fromkeys(_models(study), start))
    truths = list(over.truths.values())
    constants = {name: fitted(truths, start, without=name) for name in _models(study)}
    yield from _both("fitted on the other models' rows", over, constants)


def _both(what: str, study: Study, constants: dict[str, Efficiency]) -> Iterator[tuple[str, dict[TrafficKind, Guess]]]:
    truths = study.truths.items()
    yield f"analytical, {what}", {kind: left_out(truth, constants) for kind, truth in truths}
    yield f"simulator, {what}", {kind: simulated(truth, constants.__getitem__) for kind, truth in truths}


def _models(study: Study) -> list[str]:
    return sorted({name for truth in study.truths.values() for name in truth.model.tolist()})


def _head(kind: TrafficKind, truth: Truth, table: MethodTable) -> Iterator[str]:
    decisive = metrics.decisive(table)
    yield ""
    yield f"### {kind}: {len(truth.tasks)} tasks, {len(_models_of(truth))} models"
    yield ""
    yield (
        f"Decisive: {int(decisive.sum())}. Tolerance: {np.median(truth.tolerance):.0%} in the median, at most "
        f"{truth.tolerance.max():.0%}."
    )
    yield ""


def _models_of(truth: Truth) -> list[str]:
    return sorted(set(truth.model.tolist()))


def _references(table: MethodTable, truth: Truth) -> Iterator[Line]:
    """The default, the single best of the other models, and the virtual best."""
    yield _line("vLLM's default", "-", table, metrics.default_choice(table))
    chosen = np.full(len(table), -1, dtype=np.intp)
    for name in _models_of(truth):
        mine = truth.model == name
        try:
            best = metrics.single_best(table.rows(~mine))
        except (UndefinedMetricError, ValueError):
            best = table.tasks.default
        chosen[mine] = metrics.single_best_choice(table.rows(mine), best)
    yield _line("single best", "in", table, chosen)
    yield _line("virtual best (a bound)", "in", table, metrics.virtual_best(table))


def _picks(
    table: MethodTable, truth: Truth, guesses: dict[str, dict[TrafficKind, Guess]], kind: TrafficKind
) -> Iterator[Line]:
    for name, guess in guesses.items():
        scores = np.where(table.tasks.feasible & np.isfinite(guess[kind][0]), guess[kind][0], -np.inf)
        yield _line(name.partition(", ")[0] + ", " + _short(name), _rows(name), table, choose(table.tasks, scores))


def _short(name: str) -> str:
    return name.partition(", ")[2].removesuffix(", rows left out")


def _rows(name: str) -> str:
    return "left out" if name.endswith("left out") else "in"


def _selected(table: MethodTable, truth: Truth, args: argparse.Namespace, kind: TrafficKind) -> Iterator[Line]:
    """Selectors that learn: from a corpus without CPUs, and from this machine's rows of the other models."""
    corpus = None if args.corpus is None else _corpus(args, kind, table.tasks)
    for name in _LEARNING:
        if corpus is not None:
            scores = SELECTORS[name](random_state=0).fit(corpus).scores(table.tasks)
            yield _line(name, "left out", table, choose(table.tasks, scores))
        chosen = np.full(len(table), -1, dtype=np.intp)
        try:
            for model in _models_of(truth):
                mine = truth.model == model
                others = table.rows(~mine) if corpus is None else _joined(corpus, table.rows(~mine))
                chosen[mine] = choose(
                    table.tasks.rows(mine), SELECTORS[name](random_state=0).fit(others).scores(table.tasks.rows(mine))
                )
        except ValueError:  # too few rows for this one
            continue
        yield _line(name, "in", table, chosen)


def _corpus(args: argparse.Namespace, kind: TrafficKind, like: TaskTable) -> MethodTable:
    """The corpus's tasks of that kind that are on no CPU, with the columns of the study."""
    from metainf.corpus.tables import load_truth
    from metainf.selectors.base import with_methods

    table = load_truth(args.corpus, world=args.world, most_tasks=args.most_tasks)[kind].table
    order = [table.tasks.methods.index(name) for name in like.methods]
    table = replace(table, tasks=with_methods(table.tasks, like.methods), performance=table.performance[:, order])
    cpu = np.array([accelerator_group(name) == "CPU" for name in table.tasks.accelerator.tolist()])
    return table.rows(~cpu)


def _joined(first: MethodTable, second: MethodTable) -> MethodTable:
    names = ("features", "pair_features", "analytical", "feasible", "model", "accelerator", "workload")
    tasks = replace(
        first.tasks,
        draws=None,
        **{n: np.concatenate([getattr(first.tasks, n), getattr(second.tasks, n)]) for n in names},
    )
    both = {n: np.concatenate([getattr(first, n), getattr(second, n)]) for n in ("performance", "tolerance")}
    return replace(first, tasks=tasks, **both)


def _line(name: str, rows: str, table: MethodTable, chosen: np.ndarray) -> Line:
    decisive = metrics.decisive(table)
    regret = metrics.regret(table, chosen)
    return Line(
        name,
        rows,
        metrics.tolerant_accuracy(table, chosen),
        metrics.strict_accuracy(table, chosen),
        metrics.tolerant_accuracy(table.rows(decisive), chosen[decisive]) if decisive.any() else np.nan,
        regret.mean,
        regret.p95,
        metrics.acceleration_ratio(table, chosen),
    )


def _picked(lines: Sequence[Line]) -> Iterator[str]:
    yield "| picks of | this machine's rows | accuracy | strict | on decisive | regret mean | p95 | acceleration |"
    yield "|---|---|---|---|---|---|---|---|"
    for line in lines:
        numbers = (line.accuracy, line.strict, line.decisive_accuracy, line.regret_mean, line.regret_p95)
        yield f"| {line.name} | {line.rows} | {' | '.join(f'{n:.2f}' for n in numbers)} | {line.acceleration:.2f} |"


def _errors(truth: Truth, guesses: dict[str, Guess]) -> Iterator[str]:
    """Median absolute error and bias of each figure, over all pairs."""
    yield "| error of | " + " | ".join(f"{name} median | bias" for name in _FIGURES) + " |"
    yield "|---|" + "---|" * (2 * len(_FIGURES))
    for name, (_, figures) in guesses.items():
        cells = []
        for place in range(len(_FIGURES)):
            ratio = (figures / truth.figures)[..., place]
            known = ratio[np.isfinite(ratio)]
            cells += (
                [f"{np.median(np.abs(known - 1.0)):.0%}", f"{np.median(known) - 1.0:+.0%}"]
                if len(known)
                else ["-", "-"]
            )
        yield f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
