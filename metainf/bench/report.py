"""A folder that says what a bench measured: what is shown, conditions, noise, tables and pictures.

Separate from the comparisons, which are values, from the conditions (`report_conditions`), and from the command line.
Only what is above the noise is called a difference: words are made from the same intervals that the pictures show, and
the rest is called "no difference shown".
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from metainf.bench.calibration import CALIBRATION, Calibration, read_calibration
from metainf.bench.comparison import (
    DEFAULT,
    Comparison,
    Effects,
    MethodKind,
    PublishedRatio,
    compared,
    kind_of,
    latencies_compared,
    noise_of_all,
    published_ratios,
)
from metainf.bench.ledger import Ledger
from metainf.bench.noise import Effect
from metainf.bench.plots import effects_plot, noise_plot, published_plot, ratio_plot, save
from metainf.bench.report_conditions import conditions, files, how, repeating
from metainf.bench.rows import write_tables
from metainf.bench.traffics import traffic_named
from metainf.corpus.task import TrafficKind
from metainf.methods import Reading, published

__all__ = ["report_text", "write_report"]

_NAME = "README.md"
_LATENCIES = {"TTFT p50": "ttft_p50_s", "TPOT p50": "tpot_p50_s", "ITL p99": "itl_p99_s"}
_KINDS = {
    TrafficKind.CONCURRENCY: ("clients", "Clients that wait for their answers"),
    TrafficKind.BATCH: ("batches", "Batches, all requests at once"),
    TrafficKind.RATE: ("rates", "Requests at a rate"),
}
_Latency = tuple[Comparison, Effects]
"""A latency of all runs, and what it comes to over each traffic."""
_READINGS = {Reading.ALONE: "A", Reading.ON_BATCHING: "B"}
_ABSENT = "failed or not run"
_NONE = "no difference shown"


def write_report(ledger: Ledger, folder: Path) -> tuple[Path, ...]:
    """Write page, tables and pictures into a folder; the page's path comes first.

    A calibration that lies in the ledger's folder is kept beside it.

    Raises
    ------
    InvalidWorkloadError
        Another bench measures into that folder, or the calibration there is none.
    """
    tables = write_tables(ledger, folder)
    found = compared(ledger)
    pictures = dict(_pictures(ledger, found))
    paths = [save(figure, folder / f"{name}.png") for name, figure in pictures.items()]
    calibration, there = folder / CALIBRATION, ledger.folder / CALIBRATION
    if there.exists() and not calibration.exists():
        calibration.write_bytes(there.read_bytes())
    page = folder / _NAME
    text = report_text(
        ledger,
        found,
        list(pictures),
        calibration=read_calibration(calibration) if calibration.exists() else None,
        pages=sorted(path.name for path in folder.glob("*.md") if path.name != _NAME),
    )
    page.write_text(text, encoding="utf-8")
    return (page, *tables, *paths)


def _pictures(ledger: Ledger, found: Mapping[TrafficKind, Comparison]) -> Iterator[tuple[str, Figure]]:
    device = ledger.machine.device
    for kind, comparison in found.items():
        name = _KINDS[kind][0]
        effects = comparison.by_traffic()
        if not effects:
            continue
        yield f"traffics-{name}", effects_plot(effects, kind, device)
        yield f"ratios-{name}", ratio_plot(comparison, kind, device)
        ratios = published_ratios(comparison)
        if ratios:
            yield f"published-{name}", published_plot(ratios, kind, f"The papers' rows on {device}")
    if found:
        yield "noise", noise_plot(list(found.values()), "Noise of a comparison")


def report_text(
    ledger: Ledger,
    found: Mapping[TrafficKind, Comparison],
    pictures: Sequence[str],
    *,
    calibration: Calibration | None = None,
    pages: Sequence[str] = (),
) -> str:
    """The page, as Markdown; `pages` are the names of others beside it."""
    parts = [f"# Methods measured on {ledger.machine.device}"]
    latencies = _by_latency(ledger)
    if found:
        parts += ["", "## What is shown", "", *_summary(found), *_latency_summary(latencies)]
    if pages:
        parts += ["", "Beside this page: " + ", ".join(f"[{name}]({name})" for name in pages) + "."]
    parts += ["", "## Conditions", "", *conditions(ledger, calibration), "", "## How", "", *how(ledger.plan)]
    if found:
        parts += ["", "## Noise", "", *_noise(found), *_picture("noise", pictures)]
    for kind, comparison in found.items():
        name, title = _KINDS[kind]
        parts += ["", f"## {title}", "", *_winners(comparison), *_picture(f"traffics-{name}", pictures)]
        parts += ["", *_by_traffic(comparison), "", *_by_method(comparison)]
        parts += [*_picture(f"ratios-{name}", pictures), "", *_by_task(comparison)]
    ratios = {kind: published_ratios(comparison) for kind, comparison in found.items()}
    if any(ratios.values()):
        parts += ["", "## The papers' rows", "", *_published(ledger, ratios)]
        for kind in found:
            parts += _picture(f"published-{_KINDS[kind][0]}", pictures)
    if found:
        parts += ["", "## Latencies", "", *_latencies(latencies)]
    parts += ["", "## How to repeat it", "", *repeating(ledger.plan), "", "## Files", "", *files()]
    return "\n".join(parts) + "\n"


def _picture(name: str, pictures: Sequence[str]) -> Iterator[str]:
    if name in pictures:
        yield ""
        yield f"![{name}]({name}.png)"


def _summary(found: Mapping[TrafficKind, Comparison]) -> Iterator[str]:
    """How many differences are shown, how large one must be to be, and how many tasks a predictor can be judged by."""
    tables = [comparison.by_task() for comparison in found.values()]
    effects = [effect for table in tables for effect in table.values()]
    above, below = sum(each.above for each in effects), sum(each.below for each in effects)
    alone = sum(
        effect.below and kind_of(name) is MethodKind.ONE_AT_A_TIME
        for table in tables
        for (_, name), effect in table.items()
    )
    won = sum(len({task for (task, _), effect in table.items() if effect.above}) for table in tables)
    tasks = sum(len(comparison.tasks) for comparison in found.values())
    yield (
        f"- {len(effects)} comparisons of a method with vLLM's default on one task: {above} are shown to be faster, "
        f"{below} to be slower, {alone} of these by serving one request at a time; for the other "
        f"{len(effects) - above - below} no difference is shown. On {won} of {tasks} tasks some method is shown to be "
        "faster than the default."
    )
    on_task = _least(effects)
    on_traffic = _least([each for comparison in found.values() for each in comparison.by_traffic().values()])
    if math.isfinite(on_task):
        yield (
            f"- What can be shown: with this noise a method must be {on_task:.0%} faster than the default on one task, "
            f"{on_traffic:.0%} in the mean over the tasks of a traffic (both in the median). Less is not seen here: no "
            "difference shown does not say that there is none."
        )
    spread = np.concatenate([comparison.tolerance for comparison in found.values()])
    middle, low, high = (float(each) for each in (np.median(spread), spread.min(), spread.max()))
    decisive = sum(sum(comparison.decisive()) for comparison in found.values())
    yield (
        f"- Predictors are judged by a rule of their own, of one block: {decisive} of {tasks} tasks are decisive for "
        "them, which is that the default is worse than the best by more than twice the tolerance; the tolerance, the "
        "larger of 2 % and twice the standard deviation over blocks in the median over a task's methods, is "
        f"{middle:.0%} in the median, {low:.0%} to {high:.0%}."
    )


def _by_latency(ledger: Ledger) -> Mapping[str, _Latency]:
    """The latencies that some run has, by title."""
    found = {title: latencies_compared(ledger, field) for title, field in _LATENCIES.items()}
    return {title: (each, each.by_traffic()) for title, each in found.items() if each is not None}


def _latency_summary(latencies: Mapping[str, _Latency]) -> Iterator[str]:
    """Which latencies are shown to be shorter than the default's over a traffic, and how many longer."""
    shorter: list[str] = []
    longer = 0
    for title, (_, effects) in latencies.items():
        for (traffic, name), effect in effects.items():
            if kind_of(name) is not MethodKind.ONE_AT_A_TIME:
                longer += effect.above
                shorter += [f"{title} of {traffic} with {name} ({effect.ratio:.2f})"] if effect.below else []
    yield (
        f"- Latencies over a traffic, those of one request at a time aside: shown to be shorter than the default's: "
        f"{', '.join(shorter) or 'none'}; {longer} are shown to be longer (Latencies, below)."
    )


def _least(effects: Sequence[Effect]) -> float:
    """How much faster than the default a method must be to be shown so, in the median; NaN without intervals."""
    known = [each.high / each.ratio - 1.0 for each in effects if math.isfinite(each.high)]
    return float(np.median(known)) if known else math.nan


def _noise(found: Mapping[TrafficKind, Comparison]) -> Iterator[str]:
    """The spread of a block's ratio, by model and kind of method."""
    models = list(dict.fromkeys(task.model for comparison in found.values() for task in comparison.tasks))
    yield (
        "Standard deviation over blocks of log(P / P[default]), all loads together: root of the mean of squares, and "
        "in brackets the median of single comparisons and their number. An interval takes the largest of three: this, "
        "the same over all methods on its task, and its own."
    )
    yield ""
    yield f"| model | {' | '.join(MethodKind)} |"
    yield f"|---|{'---|' * len(MethodKind)}"
    for model in models:
        cells = []
        for kind in MethodKind:
            own, pool = noise_of_all(tuple(found.values()), model, kind)
            cells.append(f"{pool:.1%} ({np.median(own):.1%}, {len(own)})" if len(own) else "-")
        yield f"| {model} | {' | '.join(cells)} |"


def _winners(found: Comparison) -> Iterator[str]:
    """Which method is shown to be faster than the default on how many tasks, by traffic."""
    effects = found.by_task()
    yield (
        f"Which method wins where, on {len(found.tasks)} tasks: those that are shown to be faster than vLLM's default. "
        "Which of several is the fastest is not claimed."
    )
    yield ""
    yield "| traffic | tasks | shown to be faster: on tasks | no method shown to be faster: on tasks |"
    yield "|---|---|---|---|"
    for traffic in dict.fromkeys(task.traffic for task in found.tasks):
        mine = [task.key for task in found.tasks if task.traffic == traffic]
        counts = Counter(name for (row, name), effect in effects.items() if row in mine and effect.above)
        without = sum(not any(row == key and effect.above for (row, _), effect in effects.items()) for key in mine)
        told = ", ".join(f"{name}: {count}" for name, count in counts.most_common()) or "-"
        yield f"| {traffic} | {len(mine)} | {told} | {without} |"


def _by_traffic(found: Comparison) -> Iterator[str]:
    effects = found.by_traffic()
    counts = Counter(task.traffic for task in found.tasks)
    yield (
        "Performance over the default's in the mean over the tasks of a traffic, with the interval of the noise; how "
        "tasks differ is not in it. With 95 % all intervals of the table hold at once; bold where one leaves out 1."
    )
    yield ""
    rows = {row: counts.get(row, len(found.tasks)) for row in dict.fromkeys(row for row, _ in effects)}
    yield from _table("traffic", rows, effects, found)


def _by_method(found: Comparison) -> Iterator[str]:
    """How often each method differs from the default."""
    effects = found.by_task()
    yield "Tasks on which a method is shown to differ from the default:"
    yield ""
    yield f"| method | faster | slower | {_NONE} | {_ABSENT} |"
    yield "|---|---|---|---|---|"
    for name in found.others:
        mine = [effect for (_, other), effect in effects.items() if other == name]
        above, below = sum(each.above for each in mine), sum(each.below for each in mine)
        rest = len(mine) - above - below
        yield f"| {name} | {above} | {below} | {rest} | {len(found.tasks) - len(mine)} |"


def _by_task(found: Comparison) -> Iterator[str]:
    yield (
        "Performance over the default's on each task. With 95 % all intervals of the table hold at once; bold where "
        f"one leaves out 1, elsewhere {_NONE}. Where a task had fewer than {found.repeats} blocks, the cell says so."
    )
    yield ""
    yield from _table("task", {task.key: 1 for task in found.tasks}, found.by_task(), found)


def _table(head: str, rows: Mapping[str, int], effects: Effects, found: Comparison) -> Iterator[str]:
    """A line for each row and its number of tasks."""
    yield f"| {head} | {' | '.join(found.others)} |"
    yield f"|---|{'---|' * len(found.others)}"
    for row, tasks in rows.items():
        cells = [_cell(effects.get((row, name)), tasks, found.repeats) for name in found.others]
        yield f"| {row}{f' ({tasks} tasks)' if tasks > 1 else ''} | {' | '.join(cells)} |"


def _cell(effect: Effect | None, tasks: int, repeats: int) -> str:
    """Ratio, interval, and what it is less than a mean over all tasks and repeats."""
    if effect is None:
        return _ABSENT
    text = f"**{effect.ratio:.2f}**" if effect.shown else f"{effect.ratio:.2f}"
    notes = []
    if math.isfinite(effect.high):
        notes.append(f"{effect.low:.2f} to {effect.high:.2f}" if effect.high < 1000.0 else "interval says nothing")
    if effect.tasks < tasks:
        notes.append(f"{effect.tasks} of {tasks} tasks")
    if effect.blocks < effect.tasks * repeats:
        once = "one run" if effect.tasks == 1 else "one run each"
        notes.append(once if effect.single else f"{effect.blocks} runs")
    return f"{text} ({'; '.join(notes)})" if notes else text


def _published(ledger: Ledger, ratios: Mapping[TrafficKind, Sequence[PublishedRatio]]) -> Iterator[str]:
    """The papers' rows over all combined, and which of the differences are shown."""
    yield (
        "Over all combined, which is vLLM's default. Reading A is each technique alone, prefix caching and chunked "
        "prefill with one request at a time; reading B is each on continuous batching. Each figure is the mean over "
        "the tasks of its size, which differ in model and traffic from size to size: along a row, sizes are not to be "
        "compared with each other. Intervals are of the noise alone, and with 95 % all of one kind of load hold at "
        "once; bold where one leaves out 1."
    )
    yield from _base(ledger)
    names = [each.row for each in published(Reading.ALONE) if each.method.name != DEFAULT]
    yield ""
    yield f"| load | reading | {' | '.join(names)} | tasks |"
    yield f"|---|---|{'---|' * len(names)}---|"
    for kind, mine in ratios.items():
        for reading, size in dict.fromkeys((each.reading, each.size) for each in mine):
            here = {each.row: each for each in mine if (each.reading, each.size) == (reading, size)}
            tasks = next(iter(here.values())).tasks
            effects = [here[name].effect if name in here else None for name in names]
            cells = [_cell(effect, len(tasks), ledger.plan.repeats) for effect in effects]
            cells.append(", ".join(f"{task.model}/{task.traffic}" for task in tasks))
            yield f"| {_at(kind, size)} | {_READINGS[reading]} | {' | '.join(cells)} |"
    yield ""
    for reading in Reading:
        every = [(kind, each) for kind, mine in ratios.items() for each in mine if each.reading is reading]
        if every:
            yield f"Reading {_READINGS[reading]}, against all combined: {_told(every)}."


def _told(every: Sequence[tuple[TrafficKind, PublishedRatio]]) -> str:
    """Which rows are shown to be faster or slower at which sizes."""
    parts = []
    for word, wanted in (("faster", True), ("slower", False)):
        places = [
            f"{each.row} at {_at(kind, each.size)}"
            for kind, each in every
            if (each.effect.above if wanted else each.effect.below)
        ]
        parts.append(f"shown to be {word}: {', '.join(places) or 'none'}")
    rest = sum(not each.effect.shown for _, each in every)
    return "; ".join([*parts, f"{_NONE} at the other {rest} of {len(every)}"])


def _at(kind: TrafficKind, size: float) -> str:
    """A load in words."""
    match kind:
        case TrafficKind.BATCH:
            return f"a batch of {size:g}"
        case TrafficKind.CONCURRENCY:
            return f"{size:g} clients"
        case TrafficKind.RATE:
            return f"{size:g} a second"


def _base(ledger: Ledger) -> Iterator[str]:
    """What stands for one request at a time without any technique, where the prompts allow it to."""
    chunked = next(each.method.name for each in published(Reading.ALONE) if each.row == "chunked prefill")
    budgets = {s.facts.max_num_batched_tokens for s in ledger.servers if s.method == chunked}
    longest = max(part.input_tokens for task in ledger.plan.tasks for part in traffic_named(task.traffic).parts)
    least = min((each for each in budgets if each is not None), default=0)
    if longest <= least:
        yield (
            "One request at a time with neither cache nor chunks, the base of reading A, is not a row: prompts have "
            f"at most {longest:,} tokens and a step takes {least:,}, so that `{chunked}` cuts none of them and stands "
            "for it. Chunked prefill alone cannot show anything here."
        )


def _latencies(latencies: Mapping[str, _Latency]) -> Iterator[str]:
    """Latencies over the default's by traffic."""
    yield (
        "Over the default's in the same block: the mean over the tasks of a traffic, all loads and models together, "
        f"below 1 is better. Bold, with its interval, where a difference is shown; elsewhere {_NONE}. With 95 % all "
        "intervals of a table hold at once."
    )
    for title, (found, effects) in latencies.items():
        yield ""
        yield f"| {title} | {' | '.join(found.others)} |"
        yield f"|---|{'---|' * len(found.others)}"
        for row in dict.fromkeys(row for row, _ in effects):
            tasks = sum(task.traffic == row for task in found.tasks) or len(found.tasks)
            cells = [_latency_cell(effects.get((row, name)), tasks) for name in found.others]
            yield f"| {row} | {' | '.join(cells)} |"


def _latency_cell(effect: Effect | None, tasks: int) -> str:
    if effect is None:
        return _ABSENT
    notes = [f"{effect.low:.2f} to {effect.high:.2f}"] if effect.shown else []
    if effect.tasks < tasks:
        notes.append(f"{effect.tasks} of {tasks} tasks")
    text = f"**{effect.ratio:.2f}**" if effect.shown else f"{effect.ratio:.2f}"
    return f"{text} ({'; '.join(notes)})" if notes else text
