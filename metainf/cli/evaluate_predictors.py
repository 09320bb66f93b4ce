"""The part of `metainf evaluate` about predictors: their intervals, calibrated decisions, and the operator's choice.

Separate from the command, which is about selectors of methods: this fits predictors and simulates what the operator
would buy, on the rows of one world, and returns sections of the report.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from metainf.errors import InvalidWorkloadError

__all__ = ["add_arguments", "check_arguments", "predictor_sections"]

_LANES, _QUICK_LANES = 20_000, 1_500
_FOLDS, _QUICK_FOLDS = 5, 2
_STUDY_FOLDS = 2
_TREES, _QUICK_TREES = 250, 40
_WORKLOADS = 6

Say = Callable[[str], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What of this part can be asked for."""
    parser.add_argument(
        "--predictor-lanes",
        metavar="N",
        type=int,
        help="(task, method) pairs on which predictors are fitted and judged, evenly over the tasks; 0 leaves their "
        f"intervals and decisions out (default: {_LANES:,}; with --quick {_QUICK_LANES:,})",
    )
    parser.add_argument(
        "--operator-workloads",
        metavar="N",
        type=int,
        help="of each kind of traffic, for which the operator's own choice is made and then simulated, about a minute "
        f"each for rates; 0 leaves it out (default: {_WORKLOADS}; with --quick 0)",
    )
    parser.add_argument(
        "--table-store",
        metavar="FOLDER",
        type=Path,
        help="measured kernels, where the world is a table: the operator's choice is simulated over them",
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what cannot be, before anything runs.

    Raises
    ------
    InvalidWorkloadError
        A number is below 0, or there is no such store.
    """
    for flag in ("predictor_lanes", "operator_workloads"):
        value = getattr(args, flag)
        if value is not None and value < 0:
            raise InvalidWorkloadError(f"--{flag.replace('_', '-')} must be at least 0, got {value}")
    if args.table_store is not None and not args.table_store.is_dir():
        raise InvalidWorkloadError(f"--table-store {args.table_store}: there is no such folder")


def predictor_sections(args: argparse.Namespace, kinds: Sequence[str], say: Say) -> list[str]:
    """Sections about the corpus of the arguments, of these kinds of traffic."""
    lanes = (_QUICK_LANES if args.quick else _LANES) if args.predictor_lanes is None else args.predictor_lanes
    workloads = (0 if args.quick else _WORKLOADS) if args.operator_workloads is None else args.operator_workloads
    if not lanes:
        return []
    tables: Any = import_module("metainf.corpus.tables")
    build: Any = import_module("metainf.corpus.build")
    store: Any = import_module("metainf.corpus.task_store")
    rows = tables.load_rows(args.corpus, world=args.world)
    tasks = [task for task in store.read_tasks(args.corpus / build.TASKS) if str(task.kind) in kinds]
    sections = _judged(args, rows, tasks, lanes, say)
    if workloads:
        sections += _operator(args, rows, tasks, (lanes, workloads), say)
    return sections


def _growth(args: argparse.Namespace) -> Any:
    boosting: Any = import_module("metainf.training.boosting")
    return replace(boosting.Growth(), trees=_QUICK_TREES if args.quick else _TREES)


def _judged(args: argparse.Namespace, rows: Any, tasks: Sequence[Any], lanes: int, say: Say) -> list[str]:
    judging: Any = import_module("metainf.training.judging")
    text: Any = import_module("metainf.training.judgement_text")
    folds = _QUICK_FOLDS if args.quick else _FOLDS
    plan = judging.JudgingPlan(seed=args.seed, growth=_growth(args), most_folds=folds, most_lanes=lanes)
    try:
        judgement = judging.judge(rows, tasks, plan, report=say)
    except InvalidWorkloadError as error:
        say(f"predictors are left out: {error}")
        return []
    return list(text.judgement_sections(judgement))


def _operator(args: argparse.Namespace, rows: Any, tasks: Sequence[Any], sizes: tuple[int, int], say: Say) -> list[str]:
    lanes, workloads = sizes
    world_of = dict(zip(rows.column("task").to_pylist(), rows.column("world").to_pylist(), strict=True))
    oracles = {world: _oracle(world, args.table_store) for world in sorted(set(world_of.values()))}
    absent = [world for world, oracle in oracles.items() if oracle is None]
    asked = [task for task in tasks if oracles.get(world_of.get(task.key, "")) is not None]
    if absent:
        whose = "the operator's own choice" + (" for some tasks" if asked else "")
        say(f"{whose} is left out: {' and '.join(absent)} needs --table-store to be simulated")
    if not asked:
        return []
    budgets: Any = import_module("metainf.evaluation.budgets")
    study: Any = import_module("metainf.evaluation.operator_study")
    held_out: Any = import_module("metainf.training.held_out_predictors")
    train: Any = import_module("metainf.training.train")
    sections: Any = import_module("metainf.evaluation.report_sections")
    plan = train.TrainingPlan(seed=args.seed, growth=_growth(args), most_folds=_STUDY_FOLDS, most_lanes=lanes)
    predictors = held_out.HeldOutPredictors(rows, tasks, plan, folds=_STUDY_FOLDS, report=say)

    def oracle_of(task: Any) -> Any:
        return oracles[world_of[task.key]]

    drawn = budgets.task_budgets(rows, asked)
    much = study.StudyPlan(workloads=workloads)
    found = study.study_operator(asked, oracle_of, predictors, much, budgets=drawn, report=say)
    return [str(sections.operator_section(found))]


def _oracle(world: str, table_store: Path | None) -> Any:
    """The world of that name, to simulate in; None where it takes tables and there are none."""
    worlds: Any = import_module("metainf.step_times.worlds")
    kind, _, rest = world.partition(":")
    if kind == "world" and rest.isdecimal():
        return worlds.HiddenWorld(int(rest))
    if kind == "table" and table_store is not None:
        store: Any = import_module("metainf.step_times.store")
        found = worlds.TableWorld(store.TableStore(table_store))
        return found if found.name == world else None
    return None
