"""`metainf train`: a corpus to a predictor's file, with the figures of how good it is on what it did not see.

Separate from the training, which works on values: this reads a corpus, says on standard error how far it is, and prints
the figures. What trains is imported only when the command runs.
"""

import argparse
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metainf.cli.console import note, show, table
from metainf.errors import InvalidWorkloadError

if TYPE_CHECKING:
    from metainf.training.server_steps import ServerSteps
    from metainf.training.train import TrainingReport

__all__ = ["add_parser", "run"]

_SPLITS = ("model", "accelerator")


def add_parser(subparsers: Any) -> None:
    """Add `train` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "train",
        help="train the predictor on a corpus and write its file",
        description="Learns from a corpus how far truth is from the analytical predictor, with spreads and a caution "
        "calibrated on whole model families and accelerator generations that were held out, and writes one file "
        "without pickle. Equal corpus, seed and versions give equal bytes on one thread.",
        epilog="Use the file with --predictor of plan and predict, or the operator's --predictor-artifact.",
    )
    parser.add_argument("--corpus", metavar="FOLDER", type=Path, required=True, help="of `metainf corpus build`")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the predictor's file to write")
    parser.add_argument(
        "--world",
        metavar="NAME",
        default="own",
        help="of the corpus's truths, to learn from this one alone: measured kernels, for a predictor that is used "
        "(default: own, of each task the first that knows it)",
    )
    parser.add_argument(
        "--measured",
        action="append",
        metavar="FILE",
        type=Path,
        default=[],
        help="rows of real servers, as `metainf corpus measured` reads or writes them: what servers take beside their "
        "kernels is learnt from these; repeatable",
    )
    parser.add_argument("--seed", type=int, metavar="N", default=0, help="of the trees (default: 0)")
    parser.add_argument("--trees", type=int, metavar="COUNT", help="how many (default: 250)")
    parser.add_argument(
        "--held-out",
        action="append",
        metavar="NAME",
        default=[],
        help="leave the rows of this model or accelerator, or of its whole group, out of everything; repeatable",
    )
    parser.add_argument("--folds", type=int, metavar="COUNT", default=5, help="of each split (default: 5)")
    parser.add_argument(
        "--most-lanes",
        type=int,
        metavar="COUNT",
        help="(task, method) pairs to learn from; of more, whole tasks are left out evenly (default: 400,000)",
    )


def run(args: argparse.Namespace) -> int:
    """Train, write the file and print the figures."""
    if not args.corpus.is_dir():
        raise InvalidWorkloadError(f"--corpus {args.corpus}: there is no such folder")
    if args.folds < 2:
        raise InvalidWorkloadError(f"--folds {args.folds}: it takes 2 or more")
    for path in args.measured:
        if not path.is_file():
            raise InvalidWorkloadError(f"--measured {path}: there is no such file")
    for flag, value in (("--trees", args.trees), ("--most-lanes", args.most_lanes)):
        if value is not None and value < 1:
            raise InvalidWorkloadError(f"{flag} {value}: it takes 1 or more")
    from dataclasses import replace

    from metainf.corpus.build import corpus_digest
    from metainf.evaluation.measured import read_measured
    from metainf.measurements import joined
    from metainf.training.corpus import read_corpus, whole_tasks, without
    from metainf.training.server_steps import fitted_servers, server_rows
    from metainf.training.train import TrainingPlan, train, write_artifact

    plan = TrainingPlan(seed=args.seed, most_folds=args.folds)
    if args.trees is not None:
        plan = replace(plan, growth=replace(plan.growth, trees=args.trees))
    if args.most_lanes is not None:
        plan = replace(plan, most_lanes=args.most_lanes)
    started = time.perf_counter()
    rows, tasks = read_corpus(args.corpus, args.world)
    rows = without(rows, args.held_out)
    model, report = train(
        rows,
        tasks,
        plan,
        whole=whole_tasks(args.corpus, tasks),
        report=lambda what: note(f"{time.perf_counter() - started:.0f} s: {what}"),
    )
    servers = None
    if args.measured:
        note(f"{time.perf_counter() - started:.0f} s: fitting what servers take beside their kernels")
        measured = joined(read_measured(path) for path in args.measured)
        servers = fitted_servers(model, server_rows(measured, args.held_out))
        model = servers.applied(model)
    digest = write_artifact(
        model,
        report,
        args.out,
        corpus_digest=corpus_digest(args.corpus),
        world=args.world,
        seed=args.seed,
        servers=servers,
    )
    show([_figures(report), "", _decisions(report), ""])
    if servers is not None:
        show([_servers(servers), ""])
    print(f"{report.rows} rows of {report.lanes} lanes, {report.models} models on {report.accelerators} accelerators")
    print(f"widths by features: {', '.join(report.widths) or 'none, since no interval became narrower'}")
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, {digest}")
    return 0


def _decisions(report: "TrainingReport") -> Any:
    """How choices go under the caution of their category, on groups that were held out."""
    rows = [
        (
            f"unseen {split}",
            kind,
            f"{each['caution']:.2f}",
            *(_share(each[name]) for name in ("violations", "refusals", "falseRefusals")),
            f"{each['groupsWithPicks']} of {each['groups']}",
            str(each["cases"]),
            "none" if each["guaranteedConfidence"] is None else f"{each['guaranteedConfidence']:.2f}",
        )
        for split in _SPLITS
        for kind, each in report.decisions.get(split, {}).items()
    ]
    columns = ("HELD OUT", "KIND", "CAUTION", "BROKEN", "REFUSED", "FALSELY", "GROUPS PICKED", "CASES", "GUARANTEED")
    return table(columns, rows, right=columns[2:-1])


def _servers(servers: "ServerSteps") -> Any:
    """How predictions do on real servers, with factors that a row's generation or model family did not teach."""
    rows = [
        (
            source,
            figure,
            str(each.rows),
            *(f"{error:.3f}" for error in (each.generation_out, each.model_out, each.kernels, each.analytical)),
            f"{each.coverage:.3f}",
        )
        for source, figures in servers.figures.items()
        for figure, each in figures.items()
    ]
    columns = ("REAL ROWS", "FIGURE", "ROWS", "GENERATION OUT", "MODEL OUT", "KERNELS ALONE", "ANALYTICAL", "COVERAGE")
    return table(columns, rows, right=columns[2:])


def _share(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.1%}"


def _figures(report: "TrainingReport") -> Any:
    rows = []
    for split in _SPLITS:
        for target, errors in report.errors.get(split, {}).items():
            interval = report.intervals[split].get(target, {})
            rows.append(
                (
                    f"unseen {split}",
                    target,
                    f"{errors['trained']:.3f}",
                    f"{errors['analytical']:.3f}",
                    f"{interval.get('coverage', float('nan')):.3f}",
                    f"{interval.get('medianWidth', float('nan')):.2f}",
                )
            )
    columns = ("HELD OUT", "TARGET", "ERROR", "ANALYTICAL", "COVERAGE", "WIDTH")
    return table(columns, rows, right=columns[2:])
