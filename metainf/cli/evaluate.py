"""`metainf evaluate`: every selector on every split of a corpus, as tables and pictures in a folder.

Separate from the evaluation, which works on values: this reads a corpus, names selectors as people do, and says on
standard error what is running, since a full evaluation takes hours. What trains is imported only when the command runs.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metainf.corpus.task import TrafficKind
from metainf.errors import InvalidWorkloadError, MetaInfError
from metainf.selectors.catalogue import SELECTORS

if TYPE_CHECKING:
    from metainf.evaluation.outcomes import Evidence
    from metainf.evaluation.report import Evaluation
    from metainf.selectors.contract import MethodTable

__all__ = ["add_parser", "run"]

_FOCUS = "metainf"
_QUICK_TASKS = 400
_QUICK_FOLDS = 3
_QUICK_SHARES = (0.5, 1.0)
_ONE_AT_A_TIME = "static"
_LOAD_FEATURE = "load_requests"  # natural logarithm of the requests at once


def add_parser(subparsers: Any) -> None:
    """Add `evaluate` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "evaluate",
        help="judge every selector of methods on a corpus",
        description="Fits every selector on splits that hold out whole model families, accelerator generations, both, "
        "or workloads, and writes report.md, figures.csv, report.json and pictures.",
        epilog=f"Selectors: {', '.join(SELECTORS)}.",
    )
    parser.add_argument("--corpus", metavar="FOLDER", type=Path, required=True, help="of `metainf corpus build`")
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="made if it is not there")
    parser.add_argument("--world", metavar="NAME", help="of the corpus's truths, where it has several")
    parser.add_argument("--kind", action="append", choices=[str(k) for k in TrafficKind], help="of traffic; repeatable")
    parser.add_argument("--selectors", metavar="NAME,...", help="these alone (default: all that is installed)")
    parser.add_argument("--focus", metavar="NAME", help=f"that others are compared with (default: {_FOCUS})")
    parser.add_argument("--measured", metavar="FILE", type=Path, help="gpustack_perflab.csv: adds what real rows say")
    parser.add_argument("--seed", type=int, default=0, help="of selectors, intervals and the random split (default: 0)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"to try it: {_QUICK_TASKS} tasks of each kind, {_QUICK_FOLDS} folds",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate and write the report; 0 also where a selector could not be fitted, which the report says."""
    names = _selectors(args.selectors)
    focus = args.focus or (_FOCUS if _FOCUS in names else names[-1])
    if focus not in names:
        raise InvalidWorkloadError(f"--focus {focus}: it must be one of the selectors {', '.join(names)}")
    if args.measured is not None and not args.measured.is_file():
        raise InvalidWorkloadError(f"--measured {args.measured}: there is no such file")
    evidence = _evidence(args.corpus, args.world, args.kind, quick=args.quick)
    report, files = _modules()
    plan = report.Plan(focus=focus, seed=args.seed)
    if args.quick:
        plan = replace(plan, most_folds=_QUICK_FOLDS, curve_shares=_QUICK_SHARES)
    makers = {name: _Seeded(name, args.seed) for name in names}
    evaluation = report.evaluate(evidence, makers, plan, clock=time.perf_counter, progress=_say)
    written = files.write_report(evaluation, args.out, [] if args.measured is None else [_measured(args.measured)])
    for line in _summary(evaluation):
        print(line)
    print(f"{written[0]}: {len(written)} files, {evaluation.spent_s:.0f} s")
    return 0


class _Seeded:
    """Makes the selector of that name anew for each fold."""

    def __init__(self, name: str, seed: int) -> None:
        self._name = name
        self._seed = seed

    def __call__(self) -> Any:
        return SELECTORS[self._name](random_state=self._seed)


def _modules() -> tuple[Any, Any]:
    try:
        return import_module("metainf.evaluation.report"), import_module("metainf.evaluation.report_files")
    except ModuleNotFoundError as error:
        raise MetaInfError(f"evaluating needs {error.name}: install metainf[train]") from error


def _selectors(asked: str | None) -> list[str]:
    """The names asked for, in the order of reports; without any, all whose parts are installed."""
    if asked is None:
        absent = {name: [p for p in entry.parts if util.find_spec(p) is None] for name, entry in SELECTORS.items()}
        for name, parts in absent.items():
            if parts:
                _say(f"{name} is left out: {', '.join(parts)} is not installed")
        return [name for name, parts in absent.items() if not parts]
    wanted = [name.strip() for name in asked.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in SELECTORS]
    if unknown or not wanted:
        named = repr(unknown[0]) if unknown else "an empty list"
        raise InvalidWorkloadError(f"--selectors: {named} is none of {', '.join(SELECTORS)}")
    return [name for name in SELECTORS if name in wanted]


def _evidence(
    folder: Path, world: str | None, kinds: list[str] | None, *, quick: bool
) -> "Mapping[TrafficKind, Evidence]":
    if not folder.is_dir():
        raise InvalidWorkloadError(f"--corpus {folder}: there is no such folder")
    tables: Mapping[TrafficKind, MethodTable] = import_module("metainf.corpus").load_tables(folder, world=world)
    wanted = {kind: table for kind, table in tables.items() if len(table) and (kinds is None or str(kind) in kinds)}
    if not wanted:
        raise InvalidWorkloadError(f"--corpus {folder}: it holds no tasks of {' or '.join(kinds or ['any kind'])}")
    return {kind: _known(kind, _thinned(table) if quick else table) for kind, table in wanted.items()}


def _thinned(table: "MethodTable") -> "MethodTable":
    """Tasks evenly over the table."""
    count = min(_QUICK_TASKS, len(table))
    return table.rows(np.linspace(0, len(table) - 1, count).astype(np.intp))


def _known(kind: TrafficKind, table: "MethodTable") -> "Evidence":
    """The table with what it says about one-at-a-time serving and sizes of batches, to the nearest power of two."""
    outcomes: Any = import_module("metainf.evaluation.outcomes")
    tasks = table.tasks
    static = tasks.methods.index(_ONE_AT_A_TIME) if _ONE_AT_A_TIME in tasks.methods else None
    sizes = None
    if kind is not TrafficKind.RATE and static is not None and _LOAD_FEATURE in tasks.feature_names:
        log_load = tasks.features[:, tasks.feature_names.index(_LOAD_FEATURE)]
        sizes = np.exp2(np.round(log_load / np.log(2.0)))
    evidence: Evidence = outcomes.Evidence(table, batch_size=sizes, one_at_a_time=static)
    return evidence


def _measured(path: Path) -> str:
    measured: Any = import_module("metainf.evaluation.measured")
    sections: Any = import_module("metainf.evaluation.report_sections")
    groups = measured.gpustack_groups(path)
    return str(sections.measured_section(groups, measured.best_options(groups)))


def _summary(evaluation: "Evaluation") -> list[str]:
    """One line for each kind and split: how the focus does on decisive tasks."""
    lines = []
    for report in evaluation.kinds:
        for each in report.results:
            if each.selector == evaluation.focus and each.scope == "decisive":
                figures = each.figures
                lines.append(
                    f"{report.kind}, {each.split}: {each.selector} on {figures.tasks} decisive tasks: "
                    f"accuracy {figures.tolerant_accuracy.value:.3f}, closed gap {figures.closed_gap.value:.3f}, "
                    f"acceleration {figures.acceleration_ratio.value:.2f}"
                )
    return lines


def _say(line: str) -> None:
    print(f"metainf: {line}", file=sys.stderr)
