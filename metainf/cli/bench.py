"""`metainf bench`: measure methods on real servers, calibrate this machine, or draw what was measured.

Separate from the measuring itself, which knows no terminal and no names of options.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from metainf.errors import InvalidWorkloadError, MetaInfError

if TYPE_CHECKING:
    from metainf.bench.design import BenchPlan
    from metainf.bench.identity import Machine
    from metainf.bench.ledger import Ledger
    from metainf.bench.running import Progress
    from metainf.bench.servers import Servers
    from metainf.bench.small_models import SmallModel

__all__ = ["add_parser", "run"]

_MINUTE_S = 60.0
_REPORTED_S = 15.0
"""Seconds between lines of progress where there is no terminal."""
_IDENTIFY_S = 120.0
_MAKE_MODEL_S = 300.0
_GIB = 1 << 30
_SERVER_BYTES = 1.75 * _GIB
"""Of a server of a small model with 256 MiB of KV cache: 1.35 GiB measured with 128, two of them side by side."""
_SPARE_BYTES = 3.0 * _GIB


def add_parser(subparsers: Any) -> None:
    """Add `bench` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bench",
        help="measure methods on real vLLM servers, and calibrate a machine",
        description="Runs methods x traffics x repeats against vLLM servers, with the load of `vllm bench serve`. "
        "Interrupted, killed or out of time, it goes on where it was when the same command is given again.",
    )
    _add_measured(parser.add_argument_group("what is measured"))
    _add_servers(parser.add_argument_group("on which servers"))
    _add_running(parser.add_argument_group("how"))


def _add_measured(what: Any) -> None:
    what.add_argument("--plan", choices=("study", "short"), help="a plan of the project in place of the options below")
    what.add_argument(
        "--models",
        nargs="+",
        metavar="MODEL",
        help="made here: dense-7m, dense-53m, latent-57m, experts-114m; folders; hub ids",
    )
    what.add_argument(
        "--methods",
        nargs="+",
        default=["default"],
        metavar="METHOD",
        help="names of methods, as crds/README.md lists them (default: default, which is vLLM as it comes)",
    )
    what.add_argument(
        "--traffics",
        nargs="+",
        default=["unique"],
        metavar="TRAFFIC",
        help="shared, unique, decode, mixed or repetitive (default: unique)",
    )
    what.add_argument(
        "--loads",
        nargs="+",
        default=["c1"],
        metavar="LOAD",
        help="c16: 16 clients; b64: a batch of 64 requests; r2.5: 2.5 requests per second (default: c1)",
    )
    what.add_argument("--repeats", type=int, metavar="N", default=3, help="runs of each (default: 3)")
    what.add_argument(
        "--least-seconds",
        type=float,
        metavar="SECONDS",
        default=0.0,
        help="send a load again until it is measured for so long (default: send it once)",
    )
    what.add_argument(
        "--tasks-per-model", type=int, metavar="N", help="a balanced part of traffics x loads (default: all of them)"
    )
    what.add_argument(
        "--seed", type=int, metavar="N", default=0, help="of the order of runs and of their requests (default: 0)"
    )


def _add_servers(where: Any) -> None:
    where.add_argument("--python", metavar="FILE", help="interpreter that has vLLM; servers are started with it")
    where.add_argument("--url", nargs="+", metavar="METHOD=URL", help="servers that run already, all of one model")
    where.add_argument("--served-model", metavar="NAME", help="with --url: what rows call the model")
    where.add_argument("--resident", type=int, metavar="N", default=1, help="most servers side by side (default: 1)")
    where.add_argument(
        "--server-args", default="", metavar="ARGS", help="further arguments of each server, as one word"
    )
    where.add_argument("--accelerator", metavar="NAME", help="catalogue name of the device, where it is not found")


def _add_running(how: Any) -> None:
    how.add_argument("--out", required=True, metavar="FOLDER", help="ledger, logs and tables")
    how.add_argument("--minutes", type=float, metavar="N", help="begin no run that would end later; run again to go on")
    how.add_argument(
        "--run-seconds", type=float, metavar="SECONDS", default=600.0, help="most that one run may take (default: 600)"
    )
    how.add_argument("--retry-failed", action="store_true", help="run again what ended without success")
    how.add_argument("--report", metavar="FOLDER", help="write tables and plots of what is measured into this folder")
    how.add_argument("--report-only", action="store_true", help="measure nothing: report what is in --out by --report")
    how.add_argument(
        "--commit", metavar="SHA", help="of metainf, that measured what is in --out, where that does not say it"
    )
    how.add_argument("--calibrate", action="store_true", help="measure this machine's memory and arithmetic instead")


def run(args: argparse.Namespace) -> int:
    """Measure, calibrate or report."""
    if args.calibrate:
        return _calibrate(args)
    if args.report_only:
        from metainf.bench.ledger import read_ledger

        if args.report is None:
            raise InvalidWorkloadError("--report-only: give --report FOLDER, where the report is to be written")
        code = "" if args.commit is None else f"commit {args.commit}"
        return _reported(read_ledger(Path(args.out), code=code), args)
    if args.commit is not None:
        raise InvalidWorkloadError("--commit goes with --report-only: a bench writes down its own")
    return _measure(args)


def _measure(args: argparse.Namespace) -> int:
    from metainf.bench.ledger import opened
    from metainf.bench.loading import LoadGenerator
    from metainf.bench.processes import code_version
    from metainf.bench.running import Limits, run_plan

    if args.python is None:
        raise InvalidWorkloadError("give --python: the load comes from its vLLM, and servers too without --url")
    if args.repeats < 1 or args.resident < 1 or (args.minutes is not None and not args.minutes > 0.0):
        raise InvalidWorkloadError("--repeats, --resident and --minutes must be above 0")
    out = Path(args.out)
    machine = _machine(args)
    plan, places = _plan(args, out, machine)
    servers = _servers(args, plan, places, machine)
    seconds = None if args.minutes is None else args.minutes * _MINUTE_S
    limits = Limits(seconds=seconds, run_s=args.run_seconds, retry_failed=args.retry_failed)
    with opened(out, plan, machine, code_version()) as ledger:
        (out / "logs").mkdir(exist_ok=True)
        generator = LoadGenerator(args.python, out / "logs" / "load.log")
        with _reporting(sys.stderr.isatty()) as report:
            try:
                progress = run_plan(ledger, servers, generator, limits, report=report)
            except KeyboardInterrupt:
                _say(f"interrupted: {len(ledger.done)} of {len(plan.runs)} runs are kept; the same command goes on")
                raise
        return _told(ledger, progress, args)


def _machine(args: argparse.Namespace) -> "Machine":
    from metainf.bench.identity import machine
    from metainf.bench.processes import answer_of

    engine = json.loads(answer_of(args.python, "identify.py", [], most_s=_IDENTIFY_S))
    if engine["vllm"] is None:
        raise InvalidWorkloadError(f"--python {args.python}: that interpreter has no vLLM")
    return machine(engine, accelerator=args.accelerator)


def _plan(args: argparse.Namespace, out: Path, machine: "Machine") -> "tuple[BenchPlan, Mapping[str, str]]":
    """The plan, and where each of its models is."""
    from metainf.bench.design import BenchPlan, balanced, crossed
    from metainf.bench.plans import SHORT_PLAN, study_plan
    from metainf.methods import method

    if args.plan is not None:
        plan = SHORT_PLAN if args.plan == "short" else study_plan()
        return plan, _places(args, plan.models, out)
    given = {method(name, machine.engine_version).name: url for name, url in _given(args).items()}
    names = [args.served_model or "model"] if given else (args.models or [])
    if not names:
        raise InvalidWorkloadError("give --models, --plan or --url: there is nothing to measure")
    places = _places(args, names, out)
    tasks = crossed(list(places), args.traffics, args.loads)
    if args.tasks_per_model is not None:
        tasks = balanced(tasks, args.tasks_per_model, args.seed)
    methods = tuple(given) or tuple(method(name, machine.engine_version).name for name in args.methods)
    words = tuple(args.server_args.split())
    return BenchPlan(tasks, methods, args.repeats, args.seed, words, args.least_seconds), places


def _given(args: argparse.Namespace) -> dict[str, str]:
    """URLs by method."""
    pairs = [text.partition("=") for text in args.url or ()]
    if any(not name or not url.startswith("http") for name, _, url in pairs):
        raise InvalidWorkloadError("--url: write METHOD=URL, as default=http://127.0.0.1:8000")
    return {name: url for name, _, url in pairs}


def _places(args: argparse.Namespace, names: Sequence[str], out: Path) -> dict[str, str]:
    """Where each model is; small models that are not there yet are made. A folder is called by its last part."""
    from metainf.bench.small_models import SMALL_MODELS

    small = {model.name: model for model in SMALL_MODELS}
    places: dict[str, str] = {}
    for name in names:
        if name in small:
            places[name] = str(_made(args.python, small[name], out / "models"))
        elif Path(name).is_dir():
            places[Path(name).resolve().name] = str(Path(name).resolve())
        else:
            places[name] = name
    return places


def _made(python: str, model: "SmallModel", folder: Path) -> Path:
    """The folder of a small model, made where it is not there whole."""
    from metainf.bench.processes import answer_of

    place = folder / model.name
    whole = place / ".whole"
    if not whole.exists():
        _say(f"making {model.name}: {model.summary}")
        place.mkdir(parents=True, exist_ok=True)
        config = folder / f"{model.name}.json"
        config.write_text(json.dumps(dict(model.config)), encoding="utf-8")
        answer_of(python, "make_model.py", [str(config), str(place), "0"], most_s=_MAKE_MODEL_S)
        whole.touch()
    return place.resolve()


def _servers(args: argparse.Namespace, plan: "BenchPlan", places: Mapping[str, str], machine: "Machine") -> "Servers":
    from metainf.bench.servers import GivenServers, OwnServers
    from metainf.methods import method

    given = {method(name, machine.engine_version).name: url for name, url in _given(args).items()}
    if given:
        tokenizer = (args.models or [args.served_model])[0]
        if tokenizer is None:
            raise InvalidWorkloadError("--url: give --models with the model's folder or hub id, for its tokeniser")
        return GivenServers(given, tokenizer, machine.engine_version)
    resident = min(args.resident, len(plan.methods))
    room = _room()
    if resident > room:
        _say(f"memory has room for {room} servers side by side, not {resident}")
    return OwnServers(
        python=args.python,
        models=places,
        folder=Path(args.out) / "logs",
        version=machine.engine_version,
        arguments=plan.server_arguments,
        most_at_once=max(1, min(resident, room)),
    )


def _room() -> int:
    """Servers of a small model that the free memory holds."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = float(fields["MemAvailable"].split()[0]) * 1024.0
    return int((available - _SPARE_BYTES) / _SERVER_BYTES)


def _told(ledger: "Ledger", progress: "Progress", args: argparse.Namespace) -> int:
    """Say how it stands, and report where that is asked for."""
    from metainf.bench.rows import write_tables

    write_tables(ledger, Path(args.out))
    counts: dict[str, int] = {}
    for record in ledger.latest():
        counts[record.outcome.value] = counts.get(record.outcome.value, 0) + 1
    told = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    rest = "all runs are there" if progress.done == progress.total else "run the same command again"
    print(f"{args.out}: {progress.done} of {progress.total} runs ({told}); {rest}")
    return _reported(ledger, args)


def _reported(ledger: "Ledger", args: argparse.Namespace) -> int:
    if args.report is None:
        return 0
    try:
        report: Any = import_module("metainf.bench.report")
    except ModuleNotFoundError as error:
        raise MetaInfError(f"a report needs {error.name}: install metainf[train]") from error
    paths = report.write_report(ledger, Path(args.report))
    print(f"{paths[0]}: {len(paths)} files")
    return 0


def _calibrate(args: argparse.Namespace) -> int:
    from metainf.bench.calibration import CALIBRATION, calibrate, write_calibration

    if args.python is None:
        raise InvalidWorkloadError("give --python: an interpreter that has torch")
    machine = _machine(args)
    _say("measuring memory and arithmetic: half a minute on two cores")
    found = calibrate(args.python, machine, today=datetime.now(UTC).date())
    path = Path(args.out)
    path.mkdir(parents=True, exist_ok=True)
    written = write_calibration(found, path / CALIBRATION)
    for line in found.lines():
        print(line)
    print(f"{written}: an entry of the accelerator catalogue")
    return 0


def _say(text: str) -> None:
    print(f"metainf: {text}", file=sys.stderr, flush=True)


@contextmanager
def _reporting(terminal: bool) -> Iterator[Callable[["Progress"], None]]:
    """What a bench reports to: a bar on a terminal, a line now and then elsewhere."""
    if not terminal:
        last_s = -_REPORTED_S

        def line(progress: "Progress") -> None:
            nonlocal last_s
            if time.monotonic() - last_s >= _REPORTED_S:
                last_s = time.monotonic()
                _say(f"{progress.done}/{progress.total} runs, {_left(progress.left_s)}: {progress.what}")

        yield line
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"), TextColumn("{task.fields[what]}"))
    with Bar(*columns, console=Console(stderr=True)) as bar:
        row = bar.add_task("runs", total=None, left="", what="")

        def draw(progress: "Progress") -> None:
            left = _left(progress.left_s)
            bar.update(row, total=progress.total, completed=progress.done, left=left, what=progress.what)

        yield draw


def _left(seconds: float | None) -> str:
    if seconds is None:
        return "time left not known yet"
    minutes = round(seconds / _MINUTE_S)
    return f"{minutes // 60} h {minutes % 60:02d} min left"
