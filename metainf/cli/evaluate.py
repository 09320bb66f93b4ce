"""`metainf evaluate`: every selector on every split of a corpus, as tables and pictures in a folder.

Separate from the evaluation, which works on values: this reads a corpus, names selectors as people do, and says on
standard error what is running, since a full evaluation takes hours. What trains is imported only when the command runs.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metainf.cli import evaluate_rows
from metainf.cli.evaluate_predictors import add_arguments, check_arguments, predictor_sections
from metainf.corpus.task import TrafficKind
from metainf.errors import InvalidWorkloadError, MetaInfError
from metainf.evaluation.simulated import SIMULATOR_ONLY, NotTold, SimulatedPerformance, not_told, with_simulated
from metainf.selectors.catalogue import SELECTORS
from metainf.selectors.simulator_only import SimulatorOnly

if TYPE_CHECKING:
    from metainf.corpus.tables import Truth
    from metainf.evaluation.outcomes import Evidence, SelectorFactory
    from metainf.evaluation.report import Evaluation, Plan

__all__ = ["add_parser", "run"]

_FOCUS = "metainf-shipped"
"""The headline: what the operator loads, after export and reload."""
_ON_ALL_TASKS = ("metainf", "roofline-only")
"""How the names begin of what is judged on all tasks: metainf, its parts, what ships, and the physics below them."""
_COMPARED_TASKS = 2000
_QUICK_TASKS = 80
_QUICK_FOLDS = 2
_QUICK_SPLITS = ("leave-model-out", "leave-accelerator-out")
_SPLITS = (*_QUICK_SPLITS, "leave-both-out", "leave-workload-out", "random")
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
    parser.add_argument(
        "--world",
        metavar="NAME",
        help="of the corpus's truths, where it has several; `own` takes of each task the first that knows it",
    )
    parser.add_argument("--train-world", metavar="NAME", help="learn from this one, and judge by the other")
    parser.add_argument(
        "--simulated-by",
        metavar="NAME",
        help="world whose step times are those of datasheets, such as roofline: adds rows over the tasks that it "
        f"simulated too, with {SIMULATOR_ONLY}, with all others told what the simulator says over them, and with the "
        "focus, or the ensemble where the focus is what ships, that is not",
    )
    parser.add_argument("--kind", action="append", choices=[str(k) for k in TrafficKind], help="of traffic; repeatable")
    parser.add_argument("--split", action="append", choices=_SPLITS, help="repeatable (default: all)")
    parser.add_argument("--selectors", metavar="NAME,...", help="these alone (default: all that is installed)")
    parser.add_argument("--focus", metavar="NAME", help=f"that others are compared with (default: {_FOCUS})")
    parser.add_argument(
        "--measured",
        metavar="FILE",
        action="append",
        type=Path,
        default=[],
        help="rows of real servers, repeatable: gpustack_perflab.csv, llm_inference_bench_all.csv, silicon_sample.csv, "
        "or *.parquet of the measurement table; adds which options are best there, source by source",
    )
    add_arguments(parser)
    evaluate_rows.add_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, help="of selectors, intervals and the random split (default: 0)")
    parser.add_argument(
        "--most-folds",
        metavar="N",
        type=int,
        help="of each split (default: 8); leave-both-out has 2 by 2 with any number (default: 3 by 3)",
    )
    parser.add_argument(
        "--most-tasks",
        metavar="N",
        type=int,
        help=f"of each kind, evenly over the corpus (default: all; with --quick {_QUICK_TASKS})",
    )
    parser.add_argument(
        "--compared-tasks",
        metavar="N",
        type=int,
        default=_COMPARED_TASKS,
        help="of each kind, on which all selectors are compared and the focus is studied; where there are more, "
        f"metainf, its parts, {_FOCUS} and roofline-only are judged on all of them too (default: {_COMPARED_TASKS:,})",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"to try it: {_QUICK_TASKS} tasks of each kind, {_QUICK_FOLDS} folds, {' and '.join(_QUICK_SPLITS)}, no "
        "learning curve, importance or leak checks",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate and write the report; 0 also where a selector could not be fitted, which the report says."""
    names = _selectors(args.selectors)
    focus = args.focus or (_FOCUS if _FOCUS in names else names[-1])
    if focus not in names:
        raise InvalidWorkloadError(f"--focus {focus}: it must be one of the selectors {', '.join(names)}")
    for path in args.measured:
        if not path.is_file():
            raise InvalidWorkloadError(f"--measured {path}: there is no such file")
    for flag in ("most_folds", "most_tasks", "compared_tasks"):
        if getattr(args, flag) is not None and getattr(args, flag) < 2:
            raise InvalidWorkloadError(f"--{flag.replace('_', '-')} must be at least 2, got {getattr(args, flag)}")
    check_arguments(args)
    evaluate_rows.check_arguments(args)
    truths = _truths(args)
    simulated = None if args.simulated_by is None else _truths(args, simulated_by=args.simulated_by)
    evidence = {kind: _known(kind, truth, args) for kind, truth in truths.items()}
    report, files = _modules()
    plan = _plan(report, focus, _learner(focus, names), args)
    more = evaluate_rows.parameters(args, names)
    makers: dict[str, SelectorFactory] = {name: _Seeded(name, args.seed, more.get(name, {})) for name in names}
    some = {kind: _thinned(each, args.compared_tasks) for kind, each in evidence.items()}
    evaluation = report.evaluate(some, makers, plan, clock=time.perf_counter, progress=_say)
    whole = {kind: each for kind, each in evidence.items() if len(each) > len(some[kind])}
    if whole:
        evaluation = _with_all_tasks(report, evaluation, whole, makers, plan)
    if simulated is not None:
        evaluation = _with_simulations(report, evaluation, simulated, makers, plan, args)
    started = time.perf_counter()
    sections = predictor_sections(args, [str(kind) for kind in evidence], _say)
    if sections:
        sections.append(f"Predictors and the operator's choice took {time.perf_counter() - started:.0f} s.\n")
    sections += _measured(args.measured)
    written = files.write_report(evaluation, args.out, sections)
    for line in _summary(evaluation):
        print(line)
    print(f"{written[0]}: {len(written)} files, {evaluation.spent_s:.0f} s")
    return 0


def _with_all_tasks(
    report: Any,
    evaluation: "Evaluation",
    evidence: "Mapping[TrafficKind, Evidence]",
    makers: "Mapping[str, SelectorFactory]",
    plan: "Plan",
) -> "Evaluation":
    """With rows over all tasks of kinds that have more than were compared, for the focus and few selectors beside."""
    found = report.evaluate(
        evidence,
        {name: make for name, make in makers.items() if name == plan.focus or name.startswith(_ON_ALL_TASKS)},
        replace(plan, studies=False, every_task=True),
        clock=time.perf_counter,
        progress=lambda line: _say(f"all tasks: {line}"),
    )
    both: Evaluation = report.with_all_tasks(evaluation, found)
    return both


def _with_simulations(
    report: Any,
    evaluation: "Evaluation",
    truths: "Mapping[TrafficKind, Truth]",
    makers: "Mapping[str, SelectorFactory]",
    plan: "Plan",
    args: argparse.Namespace,
) -> "Evaluation":
    """With rows over the tasks that were simulated too: a corpus compares worlds on some of its tasks alone."""
    name = args.simulated_by
    said = SimulatedPerformance([truth.beside[name] for truth in truths.values()])
    evidence = {
        kind: _thinned(_known(kind, truth, args), args.compared_tasks).changed(
            lambda table: with_simulated(table, said)
        )
        for kind, truth in truths.items()
    }
    # What does not learn from tables hears nothing of simulations anyway.
    learner = plan.focus if plan.studied is None else plan.studied
    untold: dict[str, SelectorFactory] = {not_told(learner): lambda: NotTold(makers[learner]())} if learner else {}
    for kind, each in evidence.items():
        _say(f"{kind}: {len(each)} tasks were simulated by {name}")
    found = report.evaluate(
        evidence,
        {**makers, **untold, SIMULATOR_ONLY: lambda: SimulatorOnly(said)},
        replace(plan, studies=False, simulated_by=name),
        clock=time.perf_counter,
        progress=lambda line: _say(f"simulated by {name}: {line}"),
    )
    both: Evaluation = report.with_simulations(evaluation, found, name)
    return both


def _learner(focus: str, names: Sequence[str]) -> str:
    """The focus if it learns from tables, else the last that does: leaks and features can be looked at in no other."""
    return next((name for name in (focus, *reversed(names)) if not SELECTORS[name].from_rows), "")


def _plan(report: Any, focus: str, studied: str, args: argparse.Namespace) -> "Plan":
    asked = args.split or (_QUICK_SPLITS if args.quick else _SPLITS)
    plan: Plan = report.Plan(
        focus=focus,
        studied=studied,
        splits=tuple(each for each in report.SplitKind if str(each) in asked),
        most_folds=args.most_folds or (_QUICK_FOLDS if args.quick else None),
        studies=not args.quick,
        seed=args.seed,
        trained_on=args.train_world or "",
    )
    return plan


class _Seeded:
    """Makes the selector of that name anew for each fold."""

    def __init__(self, name: str, seed: int, parameters: Mapping[str, object]) -> None:
        self._name = name
        self._seed = seed
        self._parameters = parameters

    def __call__(self) -> Any:
        return SELECTORS[self._name](random_state=self._seed, **self._parameters)


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


def _truths(args: argparse.Namespace, *, simulated_by: str | None = None) -> "Mapping[TrafficKind, Truth]":
    """By kind that is asked for: tasks that are in every world that is needed, and few of them to try it."""
    folder, kinds, train_world = args.corpus, args.kind, args.train_world
    if not folder.is_dir():
        raise InvalidWorkloadError(f"--corpus {folder}: there is no such folder")
    if train_world is not None and train_world == args.world:
        raise InvalidWorkloadError(f"--train-world {train_world}: it must be another than --world")
    tables: Any = import_module("metainf.corpus.tables")
    others = [name for name in (train_world, simulated_by) if name is not None]
    truths = tables.load_truth(
        folder,
        world=args.world,
        beside=others,
        also_in=others,
        most_tasks=args.most_tasks or (_QUICK_TASKS if args.quick else None),
    )
    found: dict[TrafficKind, Truth] = {kind: each for kind, each in truths.items() if not kinds or str(kind) in kinds}
    if not found:
        every = f" in all of {', '.join(filter(None, [args.world, *others]))}" if others else ""
        raise InvalidWorkloadError(
            f"--corpus {folder}: it holds no tasks of {' or '.join(kinds or ['any kind'])}{every}"
        )
    return found


def _known(kind: TrafficKind, truth: "Truth", args: argparse.Namespace) -> "Evidence":
    """What can be served within its budget, with one-at-a-time serving and sizes of batches, to a power of two."""
    outcomes: Any = import_module("metainf.evaluation.outcomes")
    prices: Any = import_module("metainf.evaluation.prices")
    tasks = truth.table.tasks
    static = tasks.methods.index(_ONE_AT_A_TIME) if _ONE_AT_A_TIME in tasks.methods else None
    sizes = None
    if kind is not TrafficKind.RATE and static is not None and _LOAD_FEATURE in tasks.feature_names:
        log_load = tasks.features[:, tasks.feature_names.index(_LOAD_FEATURE)]
        sizes = np.exp2(np.round(log_load / np.log(2.0)))
    evidence: Evidence = outcomes.Evidence(
        truth.table,
        price_usd_per_hour=prices.replica_prices(tasks, whole_replica=kind is not TrafficKind.RATE),
        batch_size=sizes,
        one_at_a_time=static,
        performance_by_seed=truth.by_seed,
        learnt=None if args.train_world is None else truth.beside[args.train_world],
    )
    within = evaluate_rows.budgeted(args, evidence, truth.tasks)
    if len(within) < len(evidence):
        dear = len(evidence) - len(within)
        _say(f"{kind}: {dear} of {len(evidence)} tasks are left out: no method is within the budget drawn for them")
    return within


def _thinned(evidence: "Evidence", most: int) -> "Evidence":
    """Evenly over all, in their order."""
    if len(evidence) <= most:
        return evidence
    return evidence.rows(np.linspace(0, len(evidence) - 1, most).astype(np.intp))


def _measured(paths: Sequence[Path]) -> list[str]:
    """A section for each source of measured rows that has groups to compare."""
    measured: Any = import_module("metainf.evaluation.measured")
    text: Any = import_module("metainf.evaluation.report_sections")
    sections = []
    for path in paths:
        table = measured.read_measured(path)
        found = measured.measured_groups(table)
        for source in dict.fromkeys(group.source for group in found):
            groups = [group for group in found if group.source == source]
            summary = measured.best_options(groups, repeat_deviation=measured.repeat_deviation(table))
            sections.append(str(text.measured_section(groups, summary, source=source)))
        if not found:
            _say(f"{path}: no two options share model, GPU and load")
    return sections


def _summary(evaluation: "Evaluation") -> list[str]:
    """One line for each kind and split: how the focus does on decisive tasks; then the seconds of each selector."""
    lines = []
    for report in evaluation.kinds:
        for each in report.results:
            if each.selector == evaluation.focus and each.scope == "decisive":
                figures = each.figures
                lines.append(
                    f"{report.kind}, {each.split_name}: {each.selector} on {figures.tasks} decisive tasks: "
                    f"accuracy {figures.tolerant_accuracy.value:.3f}, closed gap {figures.closed_gap.value:.3f}, "
                    f"acceleration {figures.acceleration_ratio.value:.2f}"
                )
    spent = Counter({"studies": sum(report.studies_s for report in evaluation.kinds)})
    for report in evaluation.kinds:
        spent.update(report.spent_s)
    return [*lines, *(f"{name}: {seconds:.1f} s" for name, seconds in spent.most_common())]


def _say(line: str) -> None:
    print(f"metainf: {line}", file=sys.stderr)
