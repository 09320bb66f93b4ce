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

from metainf.cli import evaluate_lessons
from metainf.cli.evaluate_evidence import QUICK_TASKS, check_worlds, evidence_of, thinned
from metainf.cli.evaluate_kept import Keeping
from metainf.cli.evaluate_makers import Seeded, Simulated, Untold
from metainf.cli.evaluate_predictors import (
    add_arguments,
    check_arguments,
    measured_sections,
    predictor_sections,
    published_sweeps,
)
from metainf.corpus.task import TrafficKind
from metainf.errors import InvalidWorkloadError, MetaInfError
from metainf.evaluation.kept_files import KeptFiles
from metainf.evaluation.simulated import SIMULATOR_ONLY, SimulatedPerformance, not_told, with_simulated
from metainf.evaluation.time_limits import OutOfTimeError, TimeLimit
from metainf.selectors.catalogue import SELECTORS

if TYPE_CHECKING:
    from metainf.cli.evaluate_evidence import Found
    from metainf.evaluation.outcomes import Evidence
    from metainf.evaluation.report import Evaluation, Plan

__all__ = ["add_parser", "run"]

_FOCUS = "metainf"
"""The headline: what the operator loads, after export and reload."""
_ON_ALL_TASKS = ("metainf-ensemble", _FOCUS, "roofline-only")
"""What is judged on all tasks: the ensemble, what ships, and the physics below them."""
_COMPARED_TASKS = 2000
_QUICK_FOLDS = 2
_QUICK_SPLITS = ("leave-model-out", "leave-accelerator-out")
_SPLITS = (*_QUICK_SPLITS, "leave-both-out", "leave-workload-out", "random")
_KEPT = "outcomes"
_MINUTE_S = 60.0


def add_parser(subparsers: Any) -> None:
    """Add `evaluate` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "evaluate",
        help="judge every selector of methods on a corpus",
        description="Fits every selector on splits that hold out whole model families, accelerator generations, both, "
        "or workloads, and writes report.md, figures.csv, report.json and pictures; the figures so far after every "
        "split. Models and accelerators held out, without studies, take an hour of one core for a corpus of 20,000 "
        "tasks, which --jobs divides; all of it some six, by estimate. What is fitted is kept: the same command, given "
        "again, goes on where it was cut off.",
        epilog=f"Selectors: {', '.join(SELECTORS)}.",
    )
    _add_evidence(parser)
    add_arguments(parser)
    evaluate_lessons.add_arguments(parser)
    _add_extent(parser)
    _add_running(parser)


def _add_evidence(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", metavar="FOLDER", type=Path, required=True, help="of `metainf corpus build`")
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="made if it is not there")
    parser.add_argument(
        "--world",
        metavar="NAME",
        help="of the corpus's truths, where it has several; `own` takes of each task the first that knows it",
    )
    parser.add_argument(
        "--train-world",
        metavar="NAME",
        help="learn from what this one knows of groups that are not held out, of as many tasks as --compared-tasks, "
        "and judge by the other; the rows over all tasks learn from all that it knows",
    )
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


def _add_extent(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=int, metavar="N", default=0, help="of selectors, intervals and the random split (default: 0)"
    )
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
        help=f"of each kind, evenly over the corpus (default: all; with --quick {QUICK_TASKS})",
    )
    parser.add_argument(
        "--compared-tasks",
        metavar="N",
        type=int,
        default=_COMPARED_TASKS,
        help="of each kind, on which all selectors are compared and the focus is studied; where there are more, the "
        f"focus, {', '.join(_ON_ALL_TASKS)} are judged on all of them too, on {' and '.join(_QUICK_SPLITS)} "
        f"(default: {_COMPARED_TASKS:,})",
    )
    parser.add_argument(
        "--no-studies",
        action="store_true",
        help="leave out the learning curve and importances, which fit a selector some forty times more",
    )


def _add_running(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=int,
        default=1,
        help="splits that are judged at a time, each in a process with a copy of the tables (default: 1)",
    )
    parser.add_argument(
        "--keep",
        metavar="FOLDER",
        type=Path,
        help="where each fitted fold is kept under a digest of all that it depends on (evidence, fold, selector with "
        f"parameters and seed, code), and taken from when it is asked for again (default: {_KEPT} within --out)",
    )
    parser.add_argument(
        "--minutes",
        metavar="N",
        type=float,
        help="begin no fit that would end later, at the pace of its selector so far, and write the report as far as it "
        "has come; run again to go on",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"to try it: {QUICK_TASKS} tasks of each kind, {_QUICK_FOLDS} folds, {' and '.join(_QUICK_SPLITS)}, no "
        "learning curve or importance",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate and write the report; 0 also where a selector could not be fitted or time was up, which it says."""
    begun_s = time.perf_counter()
    names = _selectors(args.selectors)
    focus = args.focus or (_FOCUS if _FOCUS in names else names[-1])
    _check(args, names, focus)
    evidence, _ = evidence_of(args, _say)
    simulated = None if args.simulated_by is None else evidence_of(args, _say, simulated_by=args.simulated_by)
    report, files = _modules()
    plan = _plan(report, focus, _learner(focus, names), args)
    more = evaluate_lessons.parameters(args, names)
    plan = replace(plan, remarks=evaluate_lessons.remarks(more))
    makers = {name: Seeded(name, args.seed, more.get(name, {})) for name in names}
    some = {kind: thinned(each, args.compared_tasks) for kind, each in evidence.items()}

    def keep(found: "Evaluation") -> None:
        files.write_figures(found, args.out)

    kept, limit = KeptFiles(args.keep or args.out / _KEPT), _limit(args, begun_s)
    tools = {"clock": time.perf_counter, "progress": _say, "jobs": args.jobs, "known": keep}
    tools |= {"kept": kept, "limit": limit}
    evaluation = report.evaluate(some, makers, plan, **tools)
    whole = {kind: each for kind, each in evidence.items() if some[kind] is not each}
    if whole:
        evaluation = _with_all_tasks(report, evaluation, whole, names, plan, args, tools)
    if simulated is not None:
        evaluation = _with_simulations(report, evaluation, simulated, makers, plan, args, tools)
    sections: list[str] = []
    if not evaluation.unfinished:
        evaluation, sections = _with_the_rest(report, evaluation, list(evidence), args, Keeping(kept, limit, _say))
    written = files.write_report(evaluation, args.out, sections)
    for line in _summary(evaluation):
        print(line)
    left = len(evaluation.unfinished)
    rest = f"; the time was up before {left} of its parts: run the same command again" if left else ""
    print(f"{written[0]}: {len(written)} files, {evaluation.spent_s:.0f} s{rest}")
    return 0


def _check(args: argparse.Namespace, names: Sequence[str], focus: str) -> None:
    """Refuse what cannot be, before anything is read or runs."""
    if focus not in names:
        raise InvalidWorkloadError(f"--focus {focus}: it must be one of the selectors {', '.join(names)}")
    for flag in ("most_folds", "most_tasks", "compared_tasks"):
        if getattr(args, flag) is not None and getattr(args, flag) < 2:
            raise InvalidWorkloadError(f"--{flag.replace('_', '-')} must be at least 2, got {getattr(args, flag)}")
    if args.jobs < 1:
        raise InvalidWorkloadError(f"--jobs must be at least 1, got {args.jobs}")
    if args.minutes is not None and not args.minutes > 0.0:
        raise InvalidWorkloadError(f"--minutes must be above 0, got {args.minutes:g}")
    check_arguments(args)
    evaluate_lessons.check_arguments(args)
    check_worlds(args)


def _limit(args: argparse.Namespace, begun_s: float) -> TimeLimit | None:
    if args.minutes is None:
        return None
    seconds = args.minutes * _MINUTE_S
    return TimeLimit(begun_s + seconds, seconds)


def _with_the_rest(
    report: Any, evaluation: "Evaluation", kinds: Sequence[TrafficKind], args: argparse.Namespace, keeping: Keeping
) -> "tuple[Evaluation, list[str]]":
    """With the papers' figure; and sections about predictors, the operator's choice and measured rows."""
    unfinished: list[str] = []
    try:
        evaluation = report.with_published(evaluation, published_sweeps(args, kinds, keeping))
    except OutOfTimeError:
        unfinished.append("the papers' figure")
    sections, left = predictor_sections(args, [str(kind) for kind in kinds], keeping)
    if sections:
        sections.append(f"Predictors and the operator's choice took {keeping.spent_s:.0f} s.\n")
    sections += measured_sections(args, _say)
    return replace(evaluation, unfinished=(*unfinished, *left)), sections


def _with_all_tasks(
    report: Any,
    evaluation: "Evaluation",
    evidence: "Mapping[TrafficKind, Evidence]",
    names: Sequence[str],
    plan: "Plan",
    args: argparse.Namespace,
    tools: "Mapping[str, Any]",
) -> "Evaluation":
    """With rows over all tasks of kinds that have more than were compared, for the focus and few selectors beside."""

    def joined(found: "Evaluation") -> "Evaluation":
        both: Evaluation = report.with_all_tasks(evaluation, found)
        return both

    splits = tuple(each for each in plan.splits if str(each) in _QUICK_SPLITS)
    few = [name for name in names if name == plan.focus or name in _ON_ALL_TASKS]
    more = evaluate_lessons.parameters(args, few, every_task=True)
    found = report.evaluate(
        evidence,
        {name: Seeded(name, args.seed, more.get(name, {})) for name in few},
        replace(
            plan, splits=splits, studies=False, leaks=False, every_task=True, remarks=evaluate_lessons.remarks(more)
        ),
        **{
            **tools,
            "progress": _Prefixed("all tasks: "),
            "known": lambda found: tools["known"](joined(found)),
        },
    )
    return joined(found) if splits else evaluation


def _with_simulations(
    report: Any,
    evaluation: "Evaluation",
    simulated: "Found",
    makers: Mapping[str, Seeded],
    plan: "Plan",
    args: argparse.Namespace,
    tools: "Mapping[str, Any]",
) -> "Evaluation":
    """With rows over the tasks that were simulated too: a corpus compares worlds on some of its tasks alone."""
    name, (known, tables) = args.simulated_by, simulated
    said = SimulatedPerformance(tables)
    evidence = {
        kind: thinned(each, args.compared_tasks).changed(lambda table: with_simulated(table, said))
        for kind, each in known.items()
    }
    # What does not learn from tables hears nothing of simulations anyway.
    learner = plan.learner
    every: dict[str, Any] = {**makers}
    if learner:
        every[not_told(learner)] = Untold(makers[learner])
    every[SIMULATOR_ONLY] = Simulated(said, tables)
    for kind, each in evidence.items():
        _say(f"{kind}: {len(each)} tasks were simulated by {name}")
    found = report.evaluate(
        evidence,
        every,
        replace(plan, studies=False, leaks=False, simulated_by=name),
        **{
            **tools,
            "progress": _Prefixed(f"simulated by {name}: "),
            "known": lambda found: tools["known"](report.with_simulations(evaluation, found, name)),
        },
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
        studies=not (args.quick or args.no_studies),
        seed=args.seed,
        trained_on=args.train_world or "",
    )
    return plan


class _Prefixed:
    """Says lines that begin so; unlike a function within another it can be sent to a process."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def __call__(self, line: str) -> None:
        _say(self._prefix + line)


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


def _summary(evaluation: "Evaluation") -> list[str]:
    """One line for each kind and split: how the focus does on decisive tasks; then the seconds of each selector."""
    lines = []
    for report in evaluation.kinds:
        for each in report.results:
            if each.selector == evaluation.focus and each.scope == "decisive":
                figures, lossless = each.figures, ", lossless methods" if each.lossless else ""
                lines.append(
                    f"{report.kind}, {each.split_name}{lossless}: {each.selector} on {figures.tasks} decisive tasks: "
                    f"accuracy {figures.tolerant_accuracy.value:.3f}, closed gap {figures.closed_gap.value:.3f}, "
                    f"acceleration {figures.acceleration_ratio.value:.2f}"
                )
    spent = Counter({"studies": sum(report.studies_s for report in evaluation.kinds)})
    for report in evaluation.kinds:
        spent.update(report.spent_s)
    return [*lines, *(f"{name}: {seconds:.1f} s" for name, seconds in spent.most_common())]


def _say(line: str) -> None:
    print(f"metainf: {line}", file=sys.stderr)
