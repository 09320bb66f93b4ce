"""A folder that says what a bench measured: conditions, winners, noise, tables and pictures.

Separate from the comparisons, which are values, and from the command line. Only what is above the noise is called a
difference: words are made from the same winners and tolerances that the pictures show.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from metainf.bench.comparison import (
    DEFAULT,
    Comparison,
    LatencyRatio,
    compared,
    latency_ratios,
    published_ratios,
)
from metainf.bench.ledger import Ledger
from metainf.bench.plots import noise_plot, published_plot, ratio_plot, save
from metainf.bench.rows import write_tables
from metainf.bench.traffics import traffic_named
from metainf.corpus.task import TrafficKind
from metainf.methods import method

__all__ = ["report_text", "write_report"]

_NAME = "README.md"
_LATENCIES = {"TTFT p50": "ttft_p50_s", "TPOT p50": "tpot_p50_s", "ITL p99": "itl_p99_s"}
_KINDS = {
    TrafficKind.CONCURRENCY: ("clients", "Clients that wait for their answers"),
    TrafficKind.BATCH: ("batches", "Batches, all requests at once"),
    TrafficKind.RATE: ("rates", "Requests at a rate"),
}


def write_report(ledger: Ledger, folder: Path) -> tuple[Path, ...]:
    """Write page, tables and pictures into a folder; the page's path comes first."""
    tables = write_tables(ledger, folder)
    found = compared(ledger)
    pictures = dict(_pictures(ledger, found))
    paths = [save(figure, folder / f"{name}.png") for name, figure in pictures.items()]
    page = folder / _NAME
    page.write_text(report_text(ledger, found, list(pictures)), encoding="utf-8")
    return (page, *tables, *paths)


def _pictures(ledger: Ledger, found: Mapping[TrafficKind, Comparison]) -> Iterator[tuple[str, Figure]]:
    device = ledger.machine.device
    for kind, comparison in found.items():
        yield f"ratios-{_KINDS[kind][0]}", ratio_plot(comparison, device)
    if found:
        yield "noise", noise_plot(list(found.values()), "Noise of a comparison")
    batches = found.get(TrafficKind.BATCH)
    ratios = () if batches is None else published_ratios(batches)
    if ratios:
        yield "published", published_plot(ratios, f"The papers' rows on {device}")


def report_text(ledger: Ledger, found: Mapping[TrafficKind, Comparison], pictures: Sequence[str]) -> str:
    """The page, as Markdown."""
    parts = [*_conditions(ledger), *_how(ledger)]
    for kind, comparison in found.items():
        parts += ["", f"## {_KINDS[kind][1]}", "", *_winners(comparison), "", *_shown(comparison)]
        parts += ["", *_ratios(comparison)]
    if found:
        parts += ["", "## Latencies", "", *_latencies(ledger)]
    if pictures:
        parts += ["", "## Pictures", "", *(f"![{name}]({name}.png)" for name in pictures)]
    return "\n".join([*parts, *_files()]) + "\n"


def _conditions(ledger: Ledger) -> Iterator[str]:
    machine, runs = ledger.machine, ledger.latest()
    outcomes = Counter(record.outcome.value for record in runs)
    starts = sorted(record.started for record in runs)
    loads = sorted(record.machine_load for record in runs)
    ready = sorted(server.ready_s for server in ledger.servers if server.ready_s is not None)
    yield f"# Methods measured on {machine.device}"
    yield ""
    yield f"{machine.summary}, torch {machine.torch_version}, {machine.memory_bytes / 2**30:.0f} GiB, {machine.system}."
    if not runs:
        yield "Nothing is measured yet."
        return
    counted = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    yield f"{len(runs)} of {len(ledger.plan.runs)} runs ({counted}), {starts[0]} to {starts[-1]}."
    yield (
        f"Runnable processes of the machine before a run: {loads[0]:.1f} to {loads[-1]:.1f}, median "
        f"{loads[len(loads) // 2]:.1f} (the bench itself counts, and starts of servers; the rest is other work, and "
        "noise)."
    )
    if ready:
        yield f"{len(ledger.servers)} starts of servers, ready after {ready[0]:.0f} to {ready[-1]:.0f} s."
    told = sorted({difference for server in ledger.servers for difference in server.differences})
    if told:
        yield "Not as asked, by the servers' own word: " + "; ".join(told) + "."


def _how(ledger: Ledger) -> Iterator[str]:
    plan = ledger.plan
    yield ""
    yield "## How"
    yield ""
    told = " ".join(plan.server_arguments)
    yield (
        f"{len(plan.tasks)} tasks (model, traffic, load) x {len(plan.methods)} methods x {plan.repeats} repeats, seed "
        f"{plan.seed}; servers with `{told}` besides their method. Load: `vllm bench serve`. A run begins on an idle "
        f"server with an empty prefix cache{_again(plan.least_seconds)}; all other servers rest meanwhile. A task's "
        "methods run one after another, in an order drawn anew each time, on servers that stand side by side; ratios "
        "are taken within such a block. Tolerance: the larger of 2 % and twice the standard deviation of that ratio "
        "over blocks, in the median over a task's methods; the winner is the simplest method within it of the best. "
        "Methods of one request at a time run once above 4 at once."
    )
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


def _again(least_seconds: float) -> str:
    if not least_seconds:
        return ""
    return f", and sends its load again, with other requests, until {least_seconds:g} s are measured"


def _winners(found: Comparison) -> Iterator[str]:
    """Which method wins how often, by traffic; and on how many tasks the default loses beyond the noise."""
    winners, decisive = found.winners(), found.decisive()
    by_traffic: dict[str, Counter[str]] = defaultdict(Counter)
    for task, place in zip(found.tasks, winners, strict=True):
        if place is not None:
            by_traffic[task.traffic][found.methods[place]] += 1
    spread = found.tolerance
    middle, low, high = (100.0 * float(each) for each in (np.median(spread), spread.min(), spread.max()))
    yield (
        f"{len(found.tasks)} tasks; tolerance {middle:.0f} % in the median, {low:.0f} to {high:.0f} %. The default is "
        f"worse than the best by more than twice that on {sum(decisive)}."
    )
    yield ""
    yield "| traffic | winner: tasks |"
    yield "|---|---|"
    for traffic, counts in by_traffic.items():
        yield f"| {traffic} | {', '.join(f'{name}: {count}' for name, count in counts.most_common())} |"


def _shown(found: Comparison) -> Iterator[str]:
    """How often each method differs from the default by more than the noise."""
    ratio, twice = found.ratio, 2.0 * found.tolerance[:, None]
    with np.errstate(invalid="ignore"):
        better, worse = ratio * (1.0 - twice) > 1.0, ratio < 1.0 - twice
    yield "Tasks on which a method differs from the default by more than twice the tolerance:"
    yield ""
    yield "| method | better | worse | no difference shown | failed or not run |"
    yield "|---|---|---|---|---|"
    for column, name in enumerate(found.methods):
        if column == found.default:
            continue
        absent = int(np.isnan(ratio[:, column]).sum())
        counts = int(better[:, column].sum()), int(worse[:, column].sum())
        yield f"| {name} | {counts[0]} | {counts[1]} | {len(found.tasks) - sum(counts) - absent} | {absent} |"


def _latencies(ledger: Ledger) -> Iterator[str]:
    """Latencies over the default's by traffic; bold where the interval leaves out 1."""
    yield (
        "Over the default's in the same block, geometric mean over all loads and models of a traffic, below 1 is "
        "better; bold where the 95 % interval over blocks leaves out 1."
    )
    methods = [name for name in ledger.plan.methods if name != DEFAULT]
    for title, field in _LATENCIES.items():
        found = {(each.traffic, each.method): each for each in latency_ratios(ledger, field)}
        yield ""
        yield f"| {title} | {' | '.join(methods)} |"
        yield f"|---|{'---|' * len(methods)}"
        for traffic in dict.fromkeys(name for name, _ in found):
            cells = [_latency_cell(found.get((traffic, name))) for name in methods]
            yield f"| {traffic} | {' | '.join(cells)} |"


def _latency_cell(found: LatencyRatio | None) -> str:
    if found is None:
        return "-"
    return f"**{found.ratio:.2f}**" if found.differs else f"{found.ratio:.2f}"


def _ratios(found: Comparison) -> Iterator[str]:
    """Performance over the default's with the 95 % interval over blocks; winners bold."""
    winners, ratio, interval = found.winners(), found.ratio, found.interval
    yield "Performance over the default's, 95 % interval in brackets where there are three repeats or more:"
    yield ""
    yield f"| task | {' | '.join(found.methods)} |"
    yield f"|---|{'---|' * len(found.methods)}"
    for row, task in enumerate(found.tasks):
        cells = [
            _cell(ratio[row, column], interval[row, column], won=winners[row] == column)
            for column in range(len(found.methods))
        ]
        yield f"| {task.key} | {' | '.join(cells)} |"


def _cell(value: float, half: float, *, won: bool) -> str:
    if not math.isfinite(value):
        return "failed or not run"
    text = f"{value:.2f}"
    if math.isfinite(half) and half > 0.0:
        text += f" ({value * math.exp(-half):.2f} to {value * math.exp(half):.2f})"
    return f"**{text}**" if won else text


def _files() -> Iterator[str]:
    yield ""
    yield "## Files"
    yield ""
    yield (
        "`bench.json` is the plan and the machine; `measurements.parquet` and `.csv` are rows of the measurement table "
        "(`metainf.measurements`: columns, units), `tasks.parquet` what they are about, `runs.csv` every run with its "
        "outcome, `servers.csv` every start of a server with what it was told and what it says it runs with."
    )
