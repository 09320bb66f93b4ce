"""What the figures of a report mean, as it prints them: definitions that bind.

Separate from the tables, since it is read by people who decide whether a figure answers their question.
"""

from metainf.corpus.places import MEASURED_ACCELERATORS
from metainf.evaluation.budgets import FACTORS
from metainf.evaluation.calibration import least_groups
from metainf.evaluation.groups import accelerator_group

__all__ = ["DEFINITIONS"]

_TABLE_GENERATIONS = len({accelerator_group(name) for name in MEASURED_ACCELERATORS})
_GUARANTEED = 0.9

_ENTRIES = (
    (
        "Label",
        "the simplest method within the tolerance of the best. A pick within the tolerance is right (tolerant "
        "accuracy; macro F1 over labels of at least 1 % of the train tasks).",
    ),
    (
        "Acceleration ratio",
        "geometric mean of P[chosen] / P[default]; a pick that is infeasible or breaks an SLO or the budget counts as "
        "a tenth of the default, a refusal as the default.",
    ),
    (
        "Closed gap",
        "(SBS - s) / (SBS - VBS) on the mean of log(P / P[default]), with the single best fixed on train.",
    ),
    ("Regret", "1 - P[chosen] / P[best]."),
    (
        "False refusals",
        "of selectors, none by their making: they name a method wherever one is feasible, and so the column only says "
        "that they do. Predictors refuse, and theirs stand under the calibrated decisions.",
    ),
    (
        "Decisive tasks",
        "the default is worse than the best by more than twice the tolerance; aims bind there.",
    ),
    (
        "Intervals",
        "in brackets, 95 % over held-out groups (1,000 draws of whole groups); where the tasks that count are of fewer "
        "than three groups there are none. Groups: those behind the figures of a row, from the column with the fewest "
        'to that with the most; figures.csv has them for each column. "-" is undefined, never 0.',
    ),
    (
        "USD",
        'of the tasks whose accelerator has a list price, as many as stand under "with a price"; each accelerator at '
        "the node that asks least for it. A choice costs what it truly does, also where it breaks an SLO or the "
        "budget, which stands under violations; one that delivers nothing is billed ten times the default, and the "
        "default always what it costs itself. The interval of a total says how much it depends on which groups were "
        "held out.",
    ),
    (
        "Better than",
        "the share of draws of whole groups, the same ones for both, in which the mean of log(P / P[default]) is "
        "higher, and with it the closed gap. Cheaper than: in which the total USD is lower.",
    ),
    ("The random split", "only shows how much it flatters."),
    (
        "Ceiling",
        "chosen by every other seed, scored on the rest, for tasks with several seeds; what it misses is noise that "
        "nobody can predict.",
    ),
    (
        '"Trained on" another world',
        "fitted, single best and classes included, on that world's truth about its tasks whose groups and draws are "
        "not held out, as many of them as stand under the traffic (evenly over all, no more than are compared), and "
        "judged by this one's.",
    ),
    (
        '"Simulated by" a world',
        "only the tasks that it simulated too, all selectors fitted and judged on these alone and told what the "
        'simulation says of each method, but for the one that is "not told". simulator-only has no rows but these: its '
        'figures are of as many tasks as stand under "tasks", and are to be held against rows of that name alone.',
    ),
    (
        '"All tasks"',
        "selectors judged on every task, and fitted on every train task, but for what ships, which is trained on as "
        "many pairs as stand beside its name; the rows without that name are over some of the tasks, on which all "
        "selectors are compared.",
    ),
    (
        "Lossless methods alone",
        "those that cannot change answers, which is what a workload gets whose methods.lossy is Never, as by default. "
        "Labels, classes, single and virtual best are among these; selectors were fitted on all methods, and of their "
        "scores the best of these is taken. Tasks on which only a lossy method keeps every limit are left out.",
    ),
    (
        "What a world knows nothing of",
        "a method of which it has no row for a task, such as a number format without measured tables, can be picked by "
        "nobody there.",
    ),
    (
        "Hyper-parameters",
        "the weights of metainf-ensemble's parts, and the gain for which it leaves the default, are fitted by nested "
        "folds that hold groups out. Numbers of trees, leaves and neighbours, depths and learning rates are fixed by "
        "hand, the same on every split, of every selector.",
    ),
    (
        "Generations with measured tables",
        f"{_TABLE_GENERATIONS}, and a guarantee at {_GUARANTEED:.0%} over unseen groups needs "
        f"{least_groups(_GUARANTEED)}: in a world of tables what holds with accelerators left out is an observation "
        "and cannot be guaranteed.",
    ),
    (
        "Twins",
        "where groups are held out, nobody learns from a task whose lengths, arrivals and acceptance were drawn as "
        "those of a held-out one: one workload on several places.",
    ),
    (
        "Budget",
        f"drawn for each task by a checksum of its workload, log-uniform between {FACTORS[0]:g} and {FACTORS[1]:g} "
        "times what the default truly costs there; a method breaks it by more than the tolerance. Of a closed loop it "
        "can forbid the best: it counts all tokens, and P only those of requests that keep the SLO.",
    ),
    (
        "Limits",
        "the budget, every statistic of the SLO, and a batch's deadline; repeats count together. A closed loop that "
        "misses a statistic breaks its SLO although P, its goodput, counts the requests that keep it: the operator, "
        "the calibrated decisions and the study of its choices judge by the same. Selectors learn of train tasks what "
        "breaks a limit there, as the single best and the classes are fixed by it; in another world by what it says "
        "itself. Tasks on which nothing keeps every limit are left out.",
    ),
    (
        "What ships",
        "the artifact's predictor, trained on the train tasks, written to a file, loaded again, and asked what the "
        "operator asks; limits are judged at the median prediction, for it has to name a method where the operator, "
        "which asks for confidence, may refuse. The row metainf is this; metainf-ensemble is another selector and "
        "ships nowhere. A fold trains on at most as many pairs of a task and a method, and sets its spreads and "
        "cautions by as many inner folds, as stand beside its name, of that kind of traffic: the file that ships "
        "learns from up to 400,000 pairs of all kinds in 5 folds, and the other selectors from all train tasks. So its "
        "learning curve would be flat early, and the curve is that of what learns from tables.",
    ),
)

DEFINITIONS = "\n".join(f"- **{name}**: {text}" for name, text in _ENTRIES)
"""As a list of Markdown."""
