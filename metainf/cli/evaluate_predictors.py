"""The part of `metainf evaluate` about predictors: intervals, decisions, the operator's choice, picks on real rows.

Separate from the command, which is about selectors of methods: this fits predictors and simulates what the operator
would buy, on the rows of one world, or asks them about measured rows, and returns sections of the report.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from metainf.cli.evaluate_kept import Keeping
from metainf.corpus.task import TrafficKind
from metainf.errors import InvalidWorkloadError
from metainf.evaluation.kept_files import content_digest
from metainf.evaluation.time_limits import OutOfTimeError
from metainf.workload import LossyPolicy

__all__ = ["add_arguments", "check_arguments", "measured_sections", "predictor_sections", "published_sweeps"]

_LANES, _QUICK_LANES = 20_000, 1_500
_FOLDS, _QUICK_FOLDS = 5, 2
_STUDY_FOLDS = 2
_TREES, _QUICK_TREES = 250, 40
_WORKLOADS = 50
_MOST_PUBLISHED, _QUICK_PUBLISHED = 1024, 64

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
        "each for rates, and up to twice that under both policies on lossy methods; 0 leaves it out (default: "
        f"{_WORKLOADS}; with --quick 0)",
    )
    parser.add_argument(
        "--operator-lossy",
        action="append",
        choices=[str(policy) for policy in LossyPolicy],
        help="what these workloads say of lossy methods; repeatable (default: each of them)",
    )
    parser.add_argument(
        "--table-store",
        metavar="FOLDER",
        type=Path,
        help="measured kernels, where the world is a table: the operator's choice is simulated over them",
    )
    parser.add_argument(
        "--published-most",
        metavar="N",
        type=int,
        help="requests at once up to which the papers' figure is simulated, in powers of two, on one place and in the "
        f"world that is judged by; 0 leaves it out (default: {_MOST_PUBLISHED:,}; with --quick {_QUICK_PUBLISHED})",
    )
    parser.add_argument(
        "--measured",
        metavar="FILE",
        action="append",
        type=Path,
        default=[],
        help="rows of real servers, repeatable: gpustack_perflab.csv, llm_inference_bench_all.csv, silicon_sample.csv, "
        "or *.parquet of the measurement table; adds which options are best there, and which the analytical predictor "
        "picks, source by source",
    )
    parser.add_argument(
        "--measured-predictor",
        metavar="FILE",
        type=Path,
        help="of `metainf train`: what it picks on the measured rows stands beside what the analytical predictor does",
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what cannot be, before anything runs.

    Raises
    ------
    InvalidWorkloadError
        A number is below 0, or there is no such file or store.
    """
    for flag, paths in (("measured", args.measured), ("measured-predictor", [args.measured_predictor])):
        for path in paths:
            if path is not None and not path.is_file():
                raise InvalidWorkloadError(f"--{flag} {path}: there is no such file")
    for flag in ("predictor_lanes", "operator_workloads", "published_most"):
        value = getattr(args, flag)
        if value is not None and value < 0:
            raise InvalidWorkloadError(f"--{flag.replace('_', '-')} must be at least 0, got {value}")
    if args.table_store is not None and not args.table_store.is_dir():
        raise InvalidWorkloadError(f"--table-store {args.table_store}: there is no such folder")


def predictor_sections(args: argparse.Namespace, kinds: Sequence[str], keeping: Keeping) -> tuple[list[str], list[str]]:
    """Sections about the corpus of the arguments, of these kinds of traffic; and which there was no time for."""
    lanes = (_QUICK_LANES if args.quick else _LANES) if args.predictor_lanes is None else args.predictor_lanes
    workloads = (0 if args.quick else _WORKLOADS) if args.operator_workloads is None else args.operator_workloads
    if not lanes:
        return [], []
    tables: Any = import_module("metainf.corpus.tables")
    build: Any = import_module("metainf.corpus.build")
    store: Any = import_module("metainf.corpus.task_store")
    rows = tables.load_rows(args.corpus, world=args.world)
    tasks = [task for task in store.read_tasks(args.corpus / build.TASKS) if str(task.kind) in kinds]
    about = content_digest(build.corpus_digest(args.corpus), str(args.world), list(kinds))
    parts: dict[str, Callable[[], list[str]]] = {
        "intervals and decisions of predictors": partial(_judged, args, rows, tasks, (lanes, about), keeping)
    }
    if workloads:
        parts["the operator's choice"] = partial(_operator, args, rows, tasks, (lanes, workloads, about), keeping)
    sections: list[str] = []
    left: list[str] = []
    for name, part in parts.items():
        try:
            sections += part()
        except OutOfTimeError as error:
            keeping.say(f"{name}: {error}")
            left.append(name)
    return sections, left


def _growth(args: argparse.Namespace) -> Any:
    boosting: Any = import_module("metainf.training.boosting")
    return replace(boosting.Growth(), trees=_QUICK_TREES if args.quick else _TREES)


def _whole(args: argparse.Namespace, tasks: Sequence[Any]) -> frozenset[str]:
    corpora: Any = import_module("metainf.training.corpus")
    found: frozenset[str] = corpora.whole_tasks(args.corpus, tasks)
    return found


def _code(*modules: str) -> str:
    identities: Any = import_module("metainf.evaluation.identities")
    return str(identities.code_digest(*modules))


def _judged(
    args: argparse.Namespace, rows: Any, tasks: Sequence[Any], size: tuple[int, str], keeping: Keeping
) -> list[str]:
    """`size` is how many pairs they are fitted and judged on, and a digest of all that there are."""
    lanes, about = size
    judging: Any = import_module("metainf.training.judging")
    train: Any = import_module("metainf.training.train")
    text: Any = import_module("metainf.training.judgement_text")
    folds = _QUICK_FOLDS if args.quick else _FOLDS
    plan = train.TrainingPlan(seed=args.seed, growth=_growth(args), most_folds=folds, most_lanes=lanes)
    key = content_digest("predictors", about, repr(plan), _code("metainf.training.judgement_text"))

    def judged() -> list[str]:
        found = judging.judge(rows, tasks, plan, whole=_whole(args, tasks), report=keeping.say)
        return list(text.judgement_sections(found))

    try:
        return keeping.value("predictors", key, judged, _sections_facts, _sections_of)
    except InvalidWorkloadError as error:
        keeping.say(f"predictors are left out: {error}")
        return []


def _sections_facts(sections: Sequence[str]) -> Mapping[str, Any]:
    return {"sections": list(sections)}


def _sections_of(facts: Mapping[str, Any]) -> list[str]:
    found = facts["sections"]
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise TypeError("sections are texts")
    return list(found)


def _operator(
    args: argparse.Namespace, rows: Any, tasks: Sequence[Any], sizes: tuple[int, int, str], keeping: Keeping
) -> list[str]:
    """`sizes` are pairs to train on, workloads of each kind, and a digest of all that there are."""
    lanes, workloads, about = sizes
    world_of = dict(zip(rows.column("task").to_pylist(), rows.column("world").to_pylist(), strict=True))
    oracles = {world: _oracle(world, args.table_store) for world in sorted(set(world_of.values()))}
    absent = [world for world, oracle in oracles.items() if oracle is None]
    asked = [task for task in tasks if oracles.get(world_of.get(task.key, "")) is not None]
    if absent:
        whose = "the operator's own choice" + (" for some tasks" if asked else "")
        keeping.say(f"{whose} is left out: {' and '.join(absent)} needs --table-store to be simulated")
    if not asked:
        return []
    budgets: Any = import_module("metainf.evaluation.budgets")
    study: Any = import_module("metainf.evaluation.operator_study")
    truths: Any = import_module("metainf.evaluation.operator_truths")
    held_out: Any = import_module("metainf.training.held_out_predictors")
    train: Any = import_module("metainf.training.train")
    sections: Any = import_module("metainf.evaluation.report_sections")
    plan = train.TrainingPlan(seed=args.seed, growth=_growth(args), most_folds=_STUDY_FOLDS, most_lanes=lanes)
    whole = _whole(args, tasks)
    predictors = held_out.HeldOutPredictors(rows, tasks, plan, folds=_STUDY_FOLDS, whole=whole, report=keeping.say)

    def oracle_of(task: Any) -> Any:
        return oracles[world_of[task.key]]

    worlds = [f"{each.name}@{each.version}" for each in oracles.values() if each is not None]
    code = _code("metainf.evaluation.operator_study", "metainf.training.held_out_predictors")
    within = content_digest("operator", about, repr(plan), _STUDY_FOLDS, worlds, code)

    def keep(workload: str, judge: Callable[[], Any]) -> Any:
        key = content_digest(within, workload)
        return keeping.value("the operator's choice", key, judge, truths.facts_of, truths.judged_of)

    policies = [policy for policy in LossyPolicy if not args.operator_lossy or str(policy) in args.operator_lossy]
    size = study.StudyPlan(workloads=workloads)
    drawn = budgets.task_budgets(rows, asked)
    found = study.study_policies(
        asked, oracle_of, predictors, size, policies=policies, budgets=drawn, report=keeping.say, keep=keep
    )
    return [str(sections.operator_section(*found))]


def published_sweeps(
    args: argparse.Namespace, kinds: Sequence[TrafficKind], keeping: Keeping
) -> dict[TrafficKind, Any]:
    """The papers' figure of these kinds of traffic, in the first of the judging worlds that knows its place.

    Raises
    ------
    OutOfTimeError
        The time is up: it takes minutes, and is not kept.
    """
    most = args.published_most
    if most is None:
        most = _QUICK_PUBLISHED if args.quick else _MOST_PUBLISHED
    asked = [kind for kind in kinds if kind is not TrafficKind.RATE]
    if not most or not asked:
        return {}
    keeping.begin("the papers' figure")
    sweeping: Any = import_module("metainf.evaluation.published_sweep")
    for world in _judging_worlds(args):
        oracle = _oracle(world, args.table_store)
        if oracle is None:
            keeping.say(f"the papers' figure is not simulated in {world}: it is no truth, or needs --table-store")
            continue
        keeping.say(f"the papers' figure, simulated in {world}, up to {most:,} requests at once")
        found: dict[TrafficKind, Any] = {kind: sweeping.published_sweep(oracle, kind, most=most) for kind in asked}
        if all(found.values()):
            return found
        keeping.say(f"{world} knows nothing of the place of the papers' figure")
    return {}


def _judging_worlds(args: argparse.Namespace) -> Sequence[str]:
    """The world that is judged by; of several those that may say what is true, in their order."""
    tables: Any = import_module("metainf.corpus.tables")
    build: Any = import_module("metainf.corpus.build")
    if args.world is not None and args.world != tables.OWN:
        return [args.world]
    names: list[str] = build.world_names(build.read_plan(args.corpus))
    return names


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


def measured_sections(args: argparse.Namespace, say: Say) -> list[str]:
    """A section for each source of measured rows that has groups to compare."""
    if not args.measured:
        return []
    measured: Any = import_module("metainf.evaluation.measured")
    picking: Any = import_module("metainf.evaluation.measured_picks")
    text: Any = import_module("metainf.evaluation.report_sections")
    predictors = _predictors(args.measured_predictor)
    sections = []
    for path in args.measured:
        table = measured.read_measured(path)
        found = picking.asked_groups(table)
        for source in dict.fromkeys(each.group.source for each in found):
            asked = [each for each in found if each.group.source == source]
            groups = [each.group for each in asked]
            summary = measured.best_options(groups, repeat_deviation=measured.repeat_deviation(table))
            picks = picking.measured_picks(asked, predictors)
            sections.append(str(text.measured_section(groups, summary, source=source, picks=picks)))
        if not found:
            say(f"{path}: no two options share model, GPU and load")
    return sections


def _predictors(artifact: Path | None) -> dict[str, Any]:
    """Who is asked about measured rows, by name."""
    analytical: Any = import_module("metainf.predictors.analytical")
    found = {"analytical": analytical.AnalyticalPredictor()}
    if artifact is not None:
        files: Any = import_module("metainf.artifact")
        found[f"trained, {artifact.name}"] = files.load_predictor(artifact)
    return found
