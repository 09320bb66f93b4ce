"""How much longer the parts of an accelerator's steps take than is expected of them: factors that were learnt.

Separate from the roofline's constants (`efficiencies`), which a few measured servers gave and a generation shares, and
from the trees of the trained predictor, which correct answers. How fast kernels are on a chip is a fact about the chip:
once runs of some models have shown it, it holds for models that were never seen on it, and the queueing model knows
what follows from it for any load. Trees would have to find that out for each accelerator and kind of answer anew.

A factor belongs to a part of the step model and holds on one accelerator. Where the weights or the cache are narrowed
to FP8, or a checkpoint has its experts in few bits, what that does on the chip is a factor of its own, on top, and so
is what activations in few bits and experts add to the launches of a step. Dense matrices in few bits have none: six
models of a corpus do, and what each of them has of its own came out as a factor of three on accelerators. Products of
16 bits have one more for what real servers do to them. What meets in collectives has another for each doubling of the
ranks: over PCIe an all-reduce of L40S moves 18 GB/s between two of them, 3.7 among four and 2 among eight
(aiconfigurator-core 0.12.0, vLLM 0.22).

What all accelerators share is shared among those of the vendors that were learnt of: how the kernels of others are
written is another matter, and what the roofline's constants know of them was measured on them. CPUs have none: no
corpus knows them.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from metainf import accelerators
from metainf.accelerators import Accelerator, Vendor
from metainf.predictors.contract import ReplicaSpec
from metainf.predictors.lanes import REPLICA_COLUMNS, REPLICA_ROW

__all__ = ["MOST_LOG_FACTOR", "PARTS", "StepFactors", "on_part"]

FloatArray = NDArray[np.float64]

MOST_LOG_FACTOR = 3.0
"""Beyond a factor of 20 either way it is no property of a chip."""


def _doublings(replica: ReplicaSpec) -> float:
    """From four ranks on, of those that meet in collectives; below 0 for fewer."""
    layout = replica.layout
    ranks = layout.tensor_parallel * (layout.data_parallel if replica.architecture.is_moe else 1)
    return math.log2(max(ranks, 2) / 4.0)  # stages hand on from one to another


def _doublings_over_pcie(replica: ReplicaSpec) -> float:
    return 0.0 if replica.accelerator.joins(replica.layout.accelerators) else _doublings(replica)


def _multiplies_narrowly(replica: ReplicaSpec) -> bool:
    return replica.narrows_weights or not replica.architecture.multiplies_dense_plainly


_PARTS: Mapping[str, tuple[tuple[str, ...], Callable[[ReplicaSpec], float] | None]] = {
    "fixed": (("fixed_s",), None),
    "narrow_fixed": (("fixed_s",), _multiplies_narrowly),
    "expert_fixed": (("fixed_s",), attrgetter("architecture.is_moe")),
    "collective": (("collective_s",), None),
    "collective_ranks": (("collective_s",), _doublings),
    "sequence": (("sequence_s",), None),
    "token": (("token_s",), None),
    "link": (("link_token_s",), None),
    "link_ranks": (("link_token_s",), _doublings_over_pcie),
    "dense_read": (("dense_read_s", "head_read_s"), None),
    "dense_token": (("dense_token_s", "head_row_s"), None),
    "expert_read": (("expert_read_s",), None),
    "expert_token": (("expert_token_s",), None),
    "cache": (("cache_read_s", "cache_token_s", "window_read_s"), None),
    "prompt_pair": (("prompt_pair_s", "prompt_pair_window_s"), None),
    "narrowed_dense": (("dense_read_s", "dense_token_s"), attrgetter("narrows_weights")),
    "narrowed_expert": (("expert_read_s", "expert_token_s"), attrgetter("narrows_weights")),
    "narrowed_cache": (("cache_read_s", "window_read_s"), attrgetter("narrows_cache")),
    "stored_expert": (("expert_read_s", "expert_token_s"), attrgetter("architecture.stores_narrow_experts")),
    "plain_dense_token": (
        ("dense_token_s",),
        lambda r: not r.narrows_weights and r.architecture.multiplies_dense_plainly,
    ),
    "waiting": (("step_extra_s", "sequence_extra_s"), None),
    "frontend": (("frontend_token_s",), None),
    "request": (("request_s", "request_token_s"), None),
}
"""Part -> the numbers of a replica that it multiplies, and to which power, if not to the first for all replicas."""

PARTS: tuple[str, ...] = tuple(_PARTS)
"""Names of the parts, in the order of the factors."""

_MULTIPLIED = np.zeros((len(PARTS), REPLICA_ROW))
for _place, (_names, _) in enumerate(_PARTS.values()):
    _MULTIPLIED[_place, [REPLICA_COLUMNS.index(_name) for _name in _names]] = 1.0
_POWERS = [(_place, _power) for _place, (_, _power) in enumerate(_PARTS.values()) if _power is not None]


def on_part(part: str, by: float) -> FloatArray:
    """Logarithms that move one part's factor alone, shape (parts,)."""
    found = np.zeros(len(PARTS))
    found[PARTS.index(part)] = by
    return found


@dataclass(frozen=True, eq=False)  # without slots: places are worked out once
class StepFactors:
    """Logarithms of factors on the parts of steps.

    Attributes
    ----------
    accelerators : names of n accelerators
    log : array of shape (n, parts)
    others : array of shape (parts,)
        Of accelerators that are not among them: what they have in common.
    """

    accelerators: tuple[str, ...]
    log: FloatArray
    others: FloatArray

    @classmethod
    def none(cls) -> "StepFactors":
        """Nothing was learnt: all factors are 1."""
        return cls((), np.zeros((0, len(PARTS))), np.zeros(len(PARTS)))

    @cached_property
    def _place_of(self) -> Mapping[str, int]:
        return {name: place for place, name in enumerate(self.accelerators)}

    @cached_property
    def _vendors(self) -> frozenset[Vendor]:
        """Of the accelerators; all of them where nothing was learnt. CPUs are never among them."""
        found = (accelerators.get(name) for name in self.accelerators)
        vendors = frozenset(each.vendor for each in found if each is not None)
        return (vendors or frozenset(Vendor)) - {Vendor.CPU}

    def hold_for(self, accelerator: Accelerator) -> bool:
        """Whether they say anything of this accelerator: it is no CPU, and of a vendor that was learnt of."""
        return accelerator.vendor in self._vendors

    @property
    def digest(self) -> str:
        """Of names and numbers."""
        content = repr(self.accelerators).encode() + self.log.tobytes() + self.others.tobytes()
        return hashlib.sha256(content).hexdigest()

    def moved(self, by: FloatArray) -> "StepFactors":
        """With the logarithms moved by as much on every accelerator; `by` has shape (parts,)."""
        return StepFactors(self.accelerators, self.log + by, self.others + by)

    def log_of(self, accelerator: str) -> FloatArray:
        """Logarithms of one accelerator's factors, shape (parts,)."""
        place = self._place_of.get(accelerator)
        found: FloatArray = self.others if place is None else self.log[place]
        return found

    def of(self, replica: ReplicaSpec) -> FloatArray:
        """Factors on `replica_row` of a replica, shape (REPLICA_ROW,)."""
        if not self.hold_for(replica.accelerator):
            return np.ones(REPLICA_ROW)
        log = self.log_of(replica.accelerator.name).copy()
        for part, power in _POWERS:
            log[part] *= power(replica)
        factors: FloatArray = np.exp(log @ _MULTIPLIED)
        return factors
