"""Why a runner-up was not chosen, in one sentence with the numbers.

Separate because the record, the table of `metainf plan` and `kubectl metainf explain` say the same.
"""

from metainf.selection import TIE_RATIO, Scored
from metainf.workload import BatchLoad, BudgetKind, Objective, RateLoad

__all__ = ["verdict"]


def verdict(scored: Scored, chosen: Scored | None) -> str:
    """What speaks against the candidate: the limit that it breaks, or by how much the chosen one is better."""
    broken = scored.broken
    if broken is not None:
        return broken.detail
    if chosen is None:
        return "keeps every limit"
    mine, best = scored.objective_value, chosen.objective_value
    if abs(mine - best) <= abs(best) * TIE_RATIO:
        return "keeps every limit, and is as good: the cheaper goes first, then the simpler method, then the name"
    return f"keeps every limit, but {_worse(scored, mine, best)}"


def _worse(scored: Scored, mine: float, best: float) -> str:
    workload = scored.assessment.workload
    load = workload.traffic.load
    if workload.objective is Objective.MINIMIZE_COST:
        currency = workload.budget.currency
        unit = {
            BudgetKind.PER_HOUR: f"{currency}/h",
            BudgetKind.PER_MILLION_TOKENS: f"{currency} per million output tokens",
            BudgetKind.TOTAL: f"{currency} in total",
        }[BudgetKind.TOTAL if isinstance(load, BatchLoad) else workload.budget.kind]
        return f"costs {mine:.4g} {unit} against {best:.4g}"
    if workload.objective is Objective.MAXIMIZE_THROUGHPUT:
        if isinstance(load, BatchLoad):
            return f"takes {mine:.4g} s against {best:.4g} s"
        unit = "requests/s" if isinstance(load, RateLoad) else "output tokens/s"
        return f"carries {-mine:.4g} {unit} against {-best:.4g}"
    if workload.slo.bounds:
        return f"uses {mine:.0%} of its tightest SLO against {best:.0%}"
    return f"has an e2e p95 of {mine:.4g} s against {best:.4g} s"
