"""Why some of what could be served is refused: what ships at the edge of its limits, and who would refuse less.

    OMP_NUM_THREADS=1 python -m benchmarks.refusals --corpus FOLDER --world NAME [--out FILE]

The choices are those that cautions are fitted on: tasks of the corpus with their promises and budgets, and workloads
over several places, predicted by what never saw the group. Four tables, by kind of traffic and by what was held out:

- what is broken and refused falsely under the caution that ships, and under one that holds on average alone;
- whether those that barely pass, or barely do not, keep their limits: if as many do as the confidence says, what is
  refused is uncertain indeed, and no rule on the same predictions may take it;
- by how much the nearest limit is off as predicted, of candidates near enough to it;
- what an ideal predictor refuses, whose errors are normal and of one known size: how small they have to be.

Separate from the evaluation, which says what is refused and not why.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from statistics import NormalDist

import numpy as np

from metainf.cli.console import note
from metainf.corpus.task import Task, TrafficKind
from metainf.evaluation.calibration import CalibrationCase, cheapest_with, fit_inflation
from metainf.evaluation.report_text import table_text
from metainf.selectors.contract import BoolArray, FloatArray, IntArray, StringArray
from metainf.training.corpus import read_corpus, whole_tasks
from metainf.training.decision_pairs import RATE_REPLICAS, Pairs, pairs_of
from metainf.training.decisions import calibration_case, caution_of, decided, foresight
from metainf.training.predicted_spreads import trained_spreads
from metainf.training.rows import training_rows
from metainf.training.spreads import CONFIDENCE
from metainf.training.step_factors import factor_slopes
from metainf.training.train import TrainingPlan, held_out_splits, thinned
from metainf.training.widths import fitted_spreads

EDGES = (-0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, np.inf)
"""Of margins, in what the confidence asks for."""
LOG_SDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
_FURTHEST = 5.0  # a load that does not fit has no latency: as far as any other, between two numbers of replicas
_SHARED = 0.5
"""Of an ideal predictor's variance, what all methods of a task have in common; assumed."""
_DRAWS = 5
Rule = Callable[[Sequence[CalibrationCase]], float]
RULES: Mapping[str, Rule] = {
    "that ships": lambda cases: caution_of(cases)[0],
    "on average alone": lambda cases: fit_inflation(cases, CONFIDENCE, least=0.0).value,
}
"""How cautions are found. The second takes what seems to keep its limits at all, if on average enough of it does."""


@dataclass(frozen=True, slots=True, eq=False)
class Choices:
    """The pairs of one split and kind of traffic, on one place or on several, and what is predicted of them.

    Attributes
    ----------
    task : array of shape (p,)
        A number for each task.
    margin, room, work : arrays of shape (p, r)
        As `Foresight` has them.
    groups : array of shape (p,)
    """

    pairs: Pairs
    task: IntArray
    margin: FloatArray
    room: FloatArray
    work: FloatArray
    groups: StringArray

    @property
    def case(self) -> CalibrationCase:
        """As what ships decides."""
        return calibration_case(self.pairs, self.margin, self.work, self.groups)


def ideal_case(choices: Choices, log_sd: float, seed: int) -> CalibrationCase:
    """As it would be decided by who is off by normal errors of that size, and knows so.

    One error a pair: in the load that a rate can carry, and of others in whatever is nearest to its limit, costs
    included.
    """
    pairs, rng = choices.pairs, np.random.default_rng(seed)
    common = rng.normal(size=int(choices.task.max()) + 1)[choices.task]
    error = log_sd * (np.sqrt(_SHARED) * common + np.sqrt(1.0 - _SHARED) * rng.normal(size=len(common)))[:, None]
    asked = log_sd * NormalDist().inv_cdf(CONFIDENCE)
    work = choices.work
    if pairs.load.shape[1] == 1:  # not replicas of a rate, of which costs are known
        work = np.log(pairs.usd / pairs.usd_per_hour[:, None]) - error
    return calibration_case(pairs, (pairs.slack + error) / asked, work, choices.groups)


def at_the_edge(cases: Sequence[CalibrationCase], low: float, high: float) -> tuple[int, float]:
    """How many picks there are between two margins, and the share of them that breaks a limit.

    The pick of a task is the cheapest candidate whose limits are at least so far away.
    """
    picks, broken = 0, 0
    for case in cases:
        rows, chosen = np.arange(len(case.groups)), cheapest_with(case, low)
        chosen_margin = case.margin[rows, np.maximum(chosen, 0)]
        inside: BoolArray = (chosen >= 0) & (chosen_margin < high)
        picks += int(inside.sum())
        broken += int((inside & case.breaks(chosen)).sum())
    return picks, broken / picks if picks else np.nan


def slack_errors(pairs: Pairs, room: FloatArray) -> FloatArray:
    """Predicted less true slack, of pairs whose nearest limit is within a factor of e.

    Of a rate it is that of the load that can be carried, where the prediction changes from broken to kept between two
    numbers of replicas.
    """
    if room.shape[1] == 1:
        predicted, true = room[:, 0], pairs.slack[:, 0]
        near = np.abs(true) <= 1.0
    else:
        replicas, kept = np.log(RATE_REPLICAS), room >= 0.0
        first, predicted = kept.argmax(axis=1), np.full(len(room), np.nan)
        near = kept.any(axis=1) & (first > 0)
        rows, first = np.flatnonzero(near), first[near]
        low, high = np.maximum(room[rows, first - 1], -_FURTHEST), room[rows, first]
        predicted[near] = low / (high - low) * (replicas[first] - replicas[first - 1]) - replicas[first - 1]
        true = (pairs.slack - replicas).max(axis=1)  # alike for all numbers of replicas that are within the budget
    near &= np.isfinite(predicted) & np.isfinite(true)
    return np.asarray(predicted[near] - true[near])


def choices_of(
    corpus: Path, world: str, plan: TrainingPlan, report: Callable[[str], None]
) -> Iterator[tuple[str, TrafficKind, list[Choices]]]:
    """Every split and kind of traffic, as `metainf train` has them."""
    table, tasks = read_corpus(corpus, world)
    by_key = {task.key: task for task in tasks}
    whole = whole_tasks(corpus, tasks)
    chosen_among: dict[str, Task] = {key: task for key, task in by_key.items() if key in whole}
    table = thinned(table, by_key, plan.most_lanes)
    rows = training_rows(table, by_key)
    answers = held_out_splits(rows, factor_slopes(rows), plan, report).splits
    spreads = fitted_spreads(rows, answers, seed=plan.seed, most_folds=plan.most_folds, report=report)
    numbers = {key: number for number, key in enumerate(by_key)}
    for (split, each), kind in product(answers.items(), TrafficKind):
        fitted = spreads.splits[split]
        sure = trained_spreads(fitted.spread, fitted.factor, each.rows)
        found_choices = []
        for several in (False, True):
            pairs = pairs_of(table, chosen_among, each.rows, kind, each.groups if several else None)
            if len(pairs.case):
                told = foresight(pairs, each.rows, each.corrections, sure)
                task = np.array([numbers[each.rows.key[lane][0]] for lane in pairs.lane.tolist()], dtype=np.intp)
                groups = each.groups[pairs.lane]
                found_choices.append(Choices(pairs, task, told.margin, told.room, told.work, groups))
        yield split, kind, found_choices


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--world", required=True)
    parser.add_argument("--most-lanes", type=int, default=TrainingPlan().most_lanes)
    parser.add_argument("--out", type=Path, help="write the tables here")
    arguments = parser.parse_args()
    rules, edges, errors, ideal = [], [], [], []
    plan = replace(TrainingPlan(), most_lanes=arguments.most_lanes)
    for split, kind, choices in choices_of(arguments.corpus, arguments.world, plan, note):
        head = [kind.value, f"{split}s out"]
        cases = [each.case for each in choices]
        rules.append([*head, *_rules(cases)])
        shares = (at_the_edge(cases, low, high) for low, high in pairwise(EDGES))
        edges.append([*head, *(f"{broken:.0%} of {picks}" if picks else "-" for picks, broken in shares)])
        off = np.concatenate([slack_errors(each.pairs, each.room) for each in choices])
        size = np.abs(off)
        figures = np.median(size), np.sqrt(np.mean(size**2)), np.quantile(size, 0.9)
        errors.append([*head, str(len(off)), *(f"{each:.2f}" for each in figures)])
        for name, rule in RULES.items():
            ideal.append([*head, name, *(_ideal(choices, log_sd, rule) for log_sd in LOG_SDS)])
    text = "\n\n".join(
        [
            "## Broken / refused falsely, by the caution",
            table_text(["", "", *(each for name in RULES for each in (name, ""))], rules),
            "## Broken, of the picks whose nearest limit is so far away (1: what the confidence asks for)",
            table_text(["", "", *(f"{a:g} to {b:g}" for a, b in pairwise(EDGES))], edges),
            "## Predicted less true logarithm of the nearest limit's slack",
            table_text(["", "", "pairs", "median size", "root mean square", "nine in ten below"], errors),
            "## Broken / refused falsely by an ideal predictor, by the size of its errors",
            table_text(["", "", "caution", *(f"{each:g}" for each in LOG_SDS)], ideal),
        ]
    )
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")


def _rules(cases: Sequence[CalibrationCase]) -> list[str]:
    cells = []
    for rule in RULES.values():
        caution = rule(cases)
        found = decided(cases, caution)
        cells += [f"{caution:.2f}", f"{found.violations:.1%} / {found.false_refusals:.1%}"]
    return cells


def _ideal(choices: Sequence[Choices], log_sd: float, rule: Rule) -> str:
    """Means over some draws of the errors."""
    found = []
    for seed in range(_DRAWS):
        cases = [ideal_case(each, log_sd, seed) for each in choices]
        result = decided(cases, rule(cases))
        found.append((result.violations, result.false_refusals))
    broken, refused = np.mean(found, axis=0)
    return f"{broken:.0%} / {refused:.0%}"


if __name__ == "__main__":
    main()
