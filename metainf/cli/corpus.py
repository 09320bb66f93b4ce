"""`metainf corpus`: build the meta-dataset, keep measured rows beside it, or say what is in one.

Separate from the building itself, which knows no terminal, no clock and no names of worlds.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from metainf.errors import InvalidWorkloadError

__all__ = ["add_parser", "run"]

_MINUTE_S = 60.0
"""Seconds between lines of progress where there is no terminal."""


def add_parser(subparsers: Any) -> None:
    """Add `corpus` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "corpus",
        help="build the meta-dataset from simulations, or show what is in one",
        description="Builds tasks (model, accelerator, layout, workload), measures every method on them in the "
        "simulator, and keeps the rows as Parquet files. An interrupted build goes on where it was.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_build(actions)
    _add_measured(actions)
    show = actions.add_parser("show", help="say what is in a corpus")
    show.add_argument("folder", metavar="FOLDER", help="of `metainf corpus build`")


def _add_build(actions: Any) -> None:
    build: argparse.ArgumentParser = actions.add_parser("build", help="build what is missing of a corpus")
    build.add_argument("--out", required=True, metavar="FOLDER", help="made if it is not there; else it goes on there")
    build.add_argument("--tasks", type=int, metavar="N", default=20_000, help="how many (default: 20,000)")
    build.add_argument("--seed", type=int, metavar="N", default=0, help="of the tasks and their draws (default: 0)")
    build.add_argument(
        "--repeats", type=int, metavar="N", default=3, help="seeds of a task that is repeated (default: 3)"
    )
    build.add_argument(
        "--repeated-every", type=int, default=16, metavar="N", help="every N-th whole task is repeated (default: 16)"
    )
    build.add_argument(
        "--compared-every",
        type=int,
        default=8,
        metavar="N",
        help="every N-th whole task is measured in all worlds, others in the first that knows them (default: 8)",
    )
    build.add_argument(
        "--whole-every",
        type=int,
        default=1,
        metavar="N",
        help="every N-th task is whole, measured under all methods: selectors are judged on these (default: 1)",
    )
    build.add_argument(
        "--few-methods",
        type=int,
        default=4,
        metavar="N",
        help="methods of a task that is not whole: the default and others drawn for it (default: 4)",
    )
    build.add_argument("--jobs", type=int, metavar="N", default=1, help="processes; -1 takes one per core (default: 1)")
    build.add_argument(
        "--backend",
        choices=["loky", "dask"],
        default="loky",
        help="whose processes: joblib's own, or a local cluster of Dask's (extra `dask`); the files are the same "
        "(default: loky)",
    )
    build.add_argument(
        "--minutes", type=float, metavar="N", help="begin nothing that would end later; run again to go on"
    )
    build.add_argument(
        "--allow-changed-code",
        action="store_true",
        help="go on with a corpus that other code or other tables began: its rows are then of both",
    )
    build.add_argument(
        "--worlds",
        nargs="+",
        default=["world:0"],
        metavar="WORLD",
        help="truths about step times: world:SEED (hidden efficiencies), table:FOLDER (measured kernels that are in "
        "this store), roofline (no truth: what simulating the declared workload says) (default: world:0)",
    )


def _add_measured(actions: Any) -> None:
    measured: argparse.ArgumentParser = actions.add_parser(
        "measured",
        help="keep rows of real servers beside a corpus's, a file for each source",
        description="Reads measured rows and writes measured-SOURCE.parquet and their digests into measured.json. They "
        "never stand among simulated rows: `metainf evaluate --measured FILE` takes them by name.",
    )
    measured.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        type=Path,
        help="gpustack_perflab.csv, llm_inference_bench_all.csv, silicon_sample.csv, or *.parquet of such rows",
    )
    measured.add_argument("--out", required=True, metavar="FOLDER", type=Path, help="of the corpus")


def run(args: argparse.Namespace) -> int:
    """Build, keep or show; 0 also where time was up before all was built."""
    if args.action == "build":
        return _build(args)
    return _measured(args) if args.action == "measured" else _show(Path(args.folder))


def _build(args: argparse.Namespace) -> int:
    from metainf.corpus.backends import Backend, workers
    from metainf.corpus.build import CorpusPlan, Progress, build

    counts = ("tasks", "repeats", "repeated_every", "compared_every", "whole_every", "few_methods")
    for name, least in (("seed", 0), *((each, 1) for each in counts)):
        if getattr(args, name) < least:
            flag = name.replace("_", "-")
            raise InvalidWorkloadError(f"--{flag} must be at least {least}, got {getattr(args, name)}")
    if args.jobs == 0 or (args.minutes is not None and not args.minutes > 0.0):
        raise InvalidWorkloadError("--jobs must not be 0 and --minutes must be above 0")
    oracles = [_oracle(name) for name in args.worlds]
    plan = CorpusPlan(
        tasks=args.tasks,
        seed=args.seed,
        worlds=tuple(f"{oracle.name}@{oracle.version}" for oracle in oracles),
        repeats=args.repeats,
        repeated_every=args.repeated_every,
        compared_every=args.compared_every,
        whole_every=args.whole_every,
        few_methods=args.few_methods,
    )
    seconds = None if args.minutes is None else args.minutes * _MINUTE_S
    with workers(Backend(args.backend), args.jobs), _reporting(sys.stderr.isatty()) as report:
        done: Progress = build(
            Path(args.out),
            plan,
            oracles,
            clock=time.monotonic,
            n_jobs=args.jobs,
            seconds=seconds,
            report=report,
            allow_changed_code=args.allow_changed_code,
        )
    rest = "complete" if done.done == done.total else f"{done.done} of {done.total} shards: run the same command again"
    print(f"{args.out}: {rest}")
    return 0


def _measured(args: argparse.Namespace) -> int:
    from metainf.corpus.measured_rows import measured_digest, write_measured
    from metainf.evaluation.measured import read_measured
    from metainf.measurements import joined

    for path in args.files:
        if not path.is_file():
            raise InvalidWorkloadError(f"{path}: there is no such file")
    found = write_measured(joined(read_measured(path) for path in args.files), args.out)
    for each in found:
        print(f"{args.out / each.file_name}: {each.rows} rows of {'; '.join(each.versions)}, {each.digest}")
    print(f"{args.out}: {measured_digest(found)}")
    return 0


def _oracle(name: str) -> Any:
    """The world of a name as the command line writes it."""
    from metainf.corpus.worlds import RooflineWorld
    from metainf.step_times import oracle
    from metainf.step_times.store import TableStore
    from metainf.step_times.worlds import HiddenWorld, TableWorld

    kind, _, rest = name.partition(":")
    if kind == "roofline" and not rest:
        return RooflineWorld()
    if kind == "world" and rest.isdecimal():
        return HiddenWorld(int(rest))
    if kind == "table" and rest:
        if not oracle.installed() and not any(Path(rest).glob("*.npz")):
            raise InvalidWorkloadError(
                f"{rest} holds no tables, and what samples them is not there: install metainf[oracle]"
            )
        return TableWorld(TableStore(Path(rest)))
    raise InvalidWorkloadError(f"there is no world {name!r}: write world:SEED, table:FOLDER or roofline")


@contextmanager
def _reporting(terminal: bool) -> Iterator[Callable[[Any], None]]:
    """What a build reports to: a bar on a terminal, a line a minute elsewhere."""
    console = Console(stderr=True)
    if not terminal:
        last = -_MINUTE_S

        def line(progress: Any) -> None:
            nonlocal last
            if progress.elapsed_s - last >= _MINUTE_S or progress.done == progress.total:
                last = progress.elapsed_s
                print(f"{progress.done}/{progress.total} shards, {_left(progress.left_s)}", file=sys.stderr, flush=True)

        yield line
        return
    columns = (TextColumn("shards"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
    with Bar(*columns, console=console) as bar:
        row = bar.add_task("shards", total=None, left="")

        def draw(progress: Any) -> None:
            bar.update(row, total=progress.total, completed=progress.done, left=_left(progress.left_s))

        yield draw


def _left(seconds: float | None) -> str:
    if seconds is None:
        return "time left not known yet"
    minutes = round(seconds / 60.0)
    return f"{minutes // 60} h {minutes % 60:02d} min left"


def _show(folder: Path) -> int:
    from metainf.corpus.build import TASKS, corpus_digest, missing_shards, read_made_by, read_plan, shards_of
    from metainf.corpus.measured_rows import measured_digest, measured_files
    from metainf.corpus.tables import load_rows
    from metainf.corpus.task import twin_groups
    from metainf.corpus.task_store import read_tasks

    plan = read_plan(folder)
    tasks, rows = read_tasks(folder / TASKS), load_rows(folder)
    total, states, groups = len(shards_of(plan)), len(read_made_by(folder)), twin_groups(tasks)
    lines = [
        ("tasks", f"{len(tasks)}, seed {plan.seed}"),
        ("under all methods", f"{sum(map(plan.is_whole, tasks))}"),
        ("shards", f"{total - len(missing_shards(folder, plan))} of {total}"),
        ("rows", f"{rows.num_rows}"),
        ("made by", "one state of the code" if states == 1 else f"{states} states of the code: rows are mixed"),
        ("twins", f"{sum(map(len, groups))} in {len(groups)} groups"),
        ("kinds", _counted(Counter(task.kind.value for task in tasks))),
        ("origins", _counted(Counter(task.origin for task in tasks))),
        ("models", f"{len({task.model for task in tasks})}"),
        ("accelerators", f"{len({task.accelerator for task in tasks})}"),
        ("accelerators x layouts", f"{len({(task.accelerator, task.layout) for task in tasks})}"),
        ("tasks without a winner", f"{_without_winner(rows)} of those measured: no method keeps their promises"),
        ("methods measured", ", ".join(_distinct(rows, "method"))),
        ("worlds", ", ".join(_distinct(rows, "world"))),
        ("sources", ", ".join(_distinct(rows, "source"))),
        ("seeds", ", ".join(str(seed) for seed in _distinct(rows, "seed"))),
        ("digest", corpus_digest(folder)),
    ]
    measured = measured_files(folder)
    if measured:
        counts = ", ".join(f"{each.source} {each.rows}" for each in measured)
        lines += [("measured rows", counts), ("digest of these", measured_digest(measured))]
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value}")
    return 0


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


def _without_winner(rows: Any) -> int:
    """Tasks on which every method scores 0 in every world that measured them."""
    import pyarrow.compute as pc

    scores = rows.filter(pc.equal(rows.column("purpose"), "score"))
    best = scores.group_by("task").aggregate([("performance", "max")]).column("performance_max")
    return int(pc.sum(pc.equal(best, 0.0)).as_py() or 0)


def _distinct(rows: Any, column: str) -> Sequence[Any]:
    return sorted(rows.column(column).unique().to_pylist())
