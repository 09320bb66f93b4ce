"""Every selector by the name under which it is reported.

Separate from the selectors, which it imports only when one is made: the contract and this list need numpy alone.
What cannot be made from a seed is not here: the virtual best needs the truth, "simulator only" a simulation. The parts
of `metainf-ensemble` are here as it makes them, each by itself. `metainf`, the headline, is what ships, the artifact's
predictor, and no part of that ensemble: it learns from a corpus's rows, which it has to be given beside the seed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import cast

from metainf.selectors.contract import Selector

__all__ = ["SELECTORS", "Entry"]


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a selector is, and what it is made with; `parts` are modules that are not installed with `train`."""

    module: str
    name: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    seeded: bool = True
    parts: tuple[str, ...] = ()
    from_rows: bool = False
    """Whether it learns from a corpus's rows, which are its parameter `corpus`, and not from tables."""
    remark: str = ""
    """What a report says beside the name."""

    def __call__(self, random_state: int = 0, **parameters: object) -> Selector:
        """A new selector, not fitted; `parameters` replace those of the entry."""
        made = getattr(import_module(f"metainf.selectors.{self.module}"), self.name)
        seed = {"random_state": random_state} if self.seeded else {}
        return cast(Selector, made(**{**seed, **self.parameters, **parameters}))


SELECTORS: Mapping[str, Entry] = MappingProxyType(
    {
        "random": Entry("random_choice", "RandomChoice"),
        "vllm-default": Entry("vllm_default", "VllmDefault", seeded=False),
        "single-best": Entry("single_best", "SingleBest", seeded=False),
        "expert-rules": Entry("expert_rules", "ExpertRules", seeded=False),
        "roofline-only": Entry("roofline_only", "RooflineOnly", seeded=False),
        "nearest-neighbour": Entry("nearest_neighbour", "NearestNeighbour", seeded=False),
        "isac": Entry("isac", "Isac"),
        "isac-5-clusters": Entry("isac", "Isac", {"n_clusters": 5, "smallest_cluster": 1, "guard": False}),
        "alors": Entry("alors", "Alors"),
        "alors-ranks": Entry("alors", "Alors", {"by_rank": True}),
        "random-forest-classifier": Entry("random_forest", "ForestClassifier"),
        "random-forest-regressor": Entry("random_forest", "ForestRegressor"),
        "gradient-boosting-classifier": Entry("gradient_boosting", "BoostingClassifier"),
        "gradient-boosting-regressor": Entry("gradient_boosting", "BoostingRegressor"),
        "satzilla": Entry("satzilla", "Satzilla"),
        "network": Entry("network", "Network", parts=("torch",)),
        "metainf-regression": Entry("joint_regression", "JointRegression"),
        "metainf-forest": Entry("joint_forest", "JointForest"),
        "metainf-two-part": Entry("feasibility", "TwoPart"),
        "metainf-pairwise": Entry("pairwise_boosting", "PairwiseBoosting"),
        "metainf-ranking": Entry("ranking_boosting", "RankingBoosting"),
        "metainf-ensemble": Entry("ensemble", "Ensemble", remark="LightGBM ensemble, does not ship"),
        "metainf": Entry("shipped", "Shipped", from_rows=True, remark="what ships, exported and reloaded"),
    }
)
"""In the order of reports: from none learned to all."""
