"""Under which conditions a bench was measured, how, and how to do it again: parts of its page.

Separate from what it shows (`report`): nothing here depends on the figures.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from metainf.bench.calibration import CALIBRATION, Calibration
from metainf.bench.design import BenchPlan
from metainf.bench.ledger import Ledger
from metainf.bench.plans import study_plan
from metainf.bench.records import RunRecord
from metainf.bench.traffics import traffic_named
from metainf.methods import method

__all__ = ["conditions", "files", "how", "repeating"]

_MINUTE_S = 60.0


def conditions(ledger: Ledger, calibration: Calibration | None = None) -> Iterator[str]:
    """Machine, versions, what measured, calibration, runs and when, other work, servers."""
    machine, runs = ledger.machine, ledger.latest()
    yield (
        f"- {machine.summary}, torch {machine.torch_version}, {machine.memory_bytes / 2**30:.0f} GiB, {machine.system}."
    )
    yield f"- Measured by metainf, {ledger.source_version}."
    if calibration is not None:
        captured = calibration.accelerator.captured.isoformat()
        yield f"- Calibration of {captured} (`{CALIBRATION}`): {'; '.join(calibration.lines())}."
    if not runs:
        yield "- Nothing is measured yet."
        return
    counted = ", ".join(f"{count} {name}" for name, count in sorted(Counter(r.outcome.value for r in runs).items()))
    starts = sorted(record.started for record in runs)
    yield f"- {len(runs)} of {len(ledger.plan.runs)} runs ({counted}), {starts[0]} to {starts[-1]}."
    loads = sorted(record.machine_load for record in runs)
    yield (
        f"- Runnable processes of the machine before a run: {loads[0]:.1f} to {loads[-1]:.1f}, median "
        f"{_middle(loads):.1f} (the bench itself counts, and starts of servers; the rest is other work, and noise)."
    )
    yield from _blocks(runs)
    yield from _servers(ledger)


def _blocks(runs: tuple[RunRecord, ...]) -> Iterator[str]:
    """How long a block took: what is compared should have run together."""
    blocks: dict[tuple[str, int], list[datetime]] = {}
    for record in runs:
        blocks.setdefault((record.run.task.key, record.repeat), []).append(datetime.fromisoformat(record.started))
    minutes = sorted((max(each) - min(each)).total_seconds() / _MINUTE_S for each in blocks.values())
    yield (
        f"- From the first start to the last in one block: {_middle(minutes):.1f} minutes in the median, "
        f"{minutes[0]:.1f} to {minutes[-1]:.1f} (long where a bench was interrupted within one)."
    )


def _servers(ledger: Ledger) -> Iterator[str]:
    ready = sorted(server.ready_s for server in ledger.servers if server.ready_s is not None)
    used: dict[tuple[str, str], set[int]] = {}
    for record in ledger.latest():
        used.setdefault((record.model, record.method), set()).add(record.server)
    starts = sorted(len(each) for each in used.values())
    span = f"{starts[0]} to {starts[-1]}" if starts[0] < starts[-1] else f"{starts[0]}"
    if ready:
        yield f"- {len(ledger.servers)} starts of servers, ready after {ready[0]:.0f} to {ready[-1]:.0f} s."
    yield (
        f"- A method's runs on a model came from {span} starts of its server: what differs from start to start is in "
        "the noise only that far."
    )
    told = sorted({difference for server in ledger.servers for difference in server.differences})
    if told:
        yield "- Not as asked, by the servers' own word: " + "; ".join(told) + "."


def _middle(ordered: list[float]) -> float:
    return ordered[len(ordered) // 2]


def how(plan: BenchPlan) -> Iterator[str]:
    """Plan, what a run is, and what is sent."""
    told = " ".join(plan.server_arguments)
    besides = f"; servers with `{told}` besides their method" if told else ""
    yield (
        f"{_tasks(plan)} x {len(plan.methods)} methods x {plan.repeats} repeats, seed {plan.seed}{besides}. Load: "
        f"`vllm bench serve`. A run begins on an idle server with an empty prefix cache{_again(plan.least_seconds)}; "
        "all other servers rest meanwhile. A task's methods run one after another, in an order drawn anew each time, "
        "on servers that stand side by side: a block, within which ratios are taken. How intervals are made, and why, "
        "is said in `metainf.bench.noise`."
    )
    yield from _fewer(plan)
    yield ""
    yield "| traffic | requests |"
    yield "|---|---|"
    for name in dict.fromkeys(task.traffic for task in plan.tasks):
        traffic = traffic_named(name)
        parts = " and ".join(f"{p.share} x {p.input_tokens} -> {p.output_tokens}" for p in traffic.parts)
        yield f"| {name} | {traffic.summary}; tokens {parts}, temperature {traffic.temperature:g} |"
    yield ""
    yield "| method | what it is |"
    yield "|---|---|"
    for name in plan.methods:
        yield f"| {name} | {method(name).summary} |"


def _tasks(plan: BenchPlan) -> str:
    """How many there are, of how many that there could be."""
    traffics, loads = ({getattr(task, name) for task in plan.tasks} for name in ("traffic", "load"))
    whole = len(plan.models) * len(traffics) * len(loads)
    text = f"{len(plan.tasks)} tasks (model, traffic, load)"
    if len(plan.tasks) < whole:
        text += f" of the {whole} that {len(plan.models)} models, {len(traffics)} traffics and {len(loads)} loads make"
    if plan == study_plan():
        text += (
            ", thinned by a stated design (`metainf.bench.design.balanced`): every level, and every pair of levels, is "
            "there as equally often as the numbers allow; all methods run on every task"
        )
    return text


def _fewer(plan: BenchPlan) -> Iterator[str]:
    counts = Counter((run.task, run.method) for run in plan.runs)
    once = [name for name in plan.methods if any(counts[task, name] < plan.repeats for task in plan.tasks)]
    if once:
        yield (
            f"Methods of one request at a time ({', '.join(once)}) run once above 4 at once, not {plan.repeats} times: "
            "their cells say so, and their intervals rest on the noise of their kind and of their task."
        )


def _again(least_seconds: float) -> str:
    if not least_seconds:
        return ""
    return f", and sends its load again, with other requests, until {least_seconds:g} s are measured"


def repeating(plan: BenchPlan) -> Iterator[str]:
    """The commands that make such a folder."""
    yield "```"
    if plan == study_plan():
        yield "metainf bench --calibrate --python PYTHON --out FOLDER"
        yield "metainf bench --plan study --python PYTHON --resident 12 --minutes 110 --out RUNS --report FOLDER"
        yield f"python benchmarks/cpu_study.py FOLDER --calibration FOLDER/{CALIBRATION} --out FOLDER/predictors.md"
    yield "metainf bench --report-only --out FOLDER --report FOLDER"
    yield "```"
    if plan == study_plan():
        yield (
            "The machine's own measure; the runs, in parts of 110 minutes: the same command again until all are there; "
            "whether predictors pick what wins; and all of this drawn again from what is kept here."
        )
    else:
        yield "That draws all of this again from what is kept here."


def files() -> Iterator[str]:
    """What lies beside the page."""
    yield (
        "`bench.json` is the plan, the machine and what measured; `ledger.jsonl` has every run and every start of a "
        "server as it was written down, and all else is made from these two. `measurements.parquet` and `.csv` are "
        "rows of the measurement table (`metainf.measurements`: columns, units), `tasks.parquet` what they are about, "
        "`runs.csv` every run with its outcome, `servers.csv` every start of a server with what it was told and what "
        "it says it runs with."
    )
