"""Worlds: truth about step times that whoever predicts is not told.

Separate from the roofline and from the tables, since a world is what a corpus takes as real. `HiddenWorld` bends the
roofline, operation by operation and by ranges of shapes; its seed is the world. `TableWorld` has measured kernels,
where there are any, on a hidden host. In either what methods cost (drafting, waiting for the host, small steps), how
good a drafter is and how large the cache are hidden too: predictors have a number for each, and truth must not share
it. Either differs from run to run by the noise of repeats.

Equal replicas under other methods meet the same factors: they hang on accelerator, model and layout, those of drafters
on model and kind. So methods differ by what they do, and not by luck.
"""

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from metainf.accelerators import Vendor
from metainf.efficiencies import Efficiency, efficiency_of
from metainf.predictors.contract import ReplicaSpec
from metainf.simulator.contract import HostTimes, StepTimes
from metainf.step_times import ratios
from metainf.step_times.hosts import MEASURED_HOST
from metainf.step_times.latent import Latent
from metainf.step_times.measured import measured_step_times, measured_tables
from metainf.step_times.oracle import CORE_VERSION, TableRefusal
from metainf.step_times.ratios import Ratio
from metainf.step_times.roofline import CostFactors, host_times, roofline_step_times
from metainf.step_times.store import TableStore

__all__ = ["HiddenWorld", "TableWorld"]

FloatArray = NDArray[np.float64]

_VERSION = "4"
_MOST_KV_SD = 2.0
"""A cache that is a quarter larger or smaller than planned would be a fault of the plan and not its inaccuracy."""


@dataclass(frozen=True, slots=True)
class HiddenWorld:
    """The roofline with hidden efficiencies; `seed` draws the world, and a run's seed its noise."""

    seed: int

    @property
    def name(self) -> str:
        """What rows call this world."""
        return f"world:{self.seed}"

    @property
    def version(self) -> str:
        """Changes whenever its times do."""
        return f"{_VERSION}-{ratios.DIGEST}"

    @property
    def predicts(self) -> bool:
        """A truth."""
        return False

    def source(self, replica: ReplicaSpec) -> str:
        """Calculated."""
        return ""

    def step_times(self, replica: ReplicaSpec) -> StepTimes:
        """What is true of the replica's steps, without the noise of a run."""
        efficiency = _hidden_host(self.name, replica)
        plain = roofline_step_times(replica, efficiency, _hidden_costs(self.name, replica))
        bent = _Bends(self.name, replica)
        dense = ratios.MIXTURE if plain.expert_s.any() else ratios.DENSE
        reads = ratios.decode_size(plain.decode_sequences[:, None], plain.decode_context_tokens)
        pairs = ratios.pair_size(plain.chunk_tokens[:, None], plain.chunk_context_tokens)
        return replace(
            plain,
            token_s=bent.line(dense, plain.tokens, plain.token_s),
            expert_s=bent.line(ratios.EXPERT, plain.expert_tokens, plain.expert_s),
            decode_s=bent.surface(ratios.DECODE, reads, plain.decode_s),
            chunk_s=bent.surface(ratios.CHUNK, pairs, plain.chunk_s),
            prompt_step_s=bent.launch_s(),
        )

    def host_times(self, replica: ReplicaSpec) -> HostTimes:
        """What is true of the replica's host."""
        return host_times(_hidden_host(self.name, replica))

    def times(self, replica: ReplicaSpec, seed: int) -> tuple[StepTimes, HostTimes]:
        """Steps and host in one run."""
        return _one_run(self.name, replica, seed, (self.step_times(replica), self.host_times(replica)))

    def latent(self, replica: ReplicaSpec) -> Latent:
        """What is true of the replica's cache and of its drafter."""
        return _hidden_latent(self.name, replica)


@dataclass(frozen=True, slots=True)
class TableWorld:
    """Measured kernels, and a host that is drawn; nothing where no table is, or none is in the store."""

    store: TableStore
    seed: int = 0

    @property
    def name(self) -> str:
        """What rows call this world; the device's table is the accelerator's."""
        return f"table:aiconfigurator-core-{CORE_VERSION}/{self.seed}"

    @property
    def version(self) -> str:
        """Changes whenever its times do."""
        return f"{_VERSION}-{ratios.DIGEST}"

    @property
    def predicts(self) -> bool:
        """A truth."""
        return False

    def source(self, replica: ReplicaSpec) -> str:
        """Library, engine's version and device of the replica's table; empty where there is none."""
        found = measured_tables(replica, self.store)
        return "" if isinstance(found, TableRefusal) else found.source

    def step_times(self, replica: ReplicaSpec) -> StepTimes | None:
        """Measured kernels on the hidden host, without the noise of a run."""
        found = measured_tables(replica, self.store)
        if isinstance(found, TableRefusal):
            return None
        costs = _hidden_costs(self.name, replica)
        return measured_step_times(replica, _hidden_host(self.name, replica), found, costs)

    def times(self, replica: ReplicaSpec, seed: int) -> tuple[StepTimes, HostTimes] | None:
        """Steps and host in one run, None where this world knows nothing."""
        steps = self.step_times(replica)
        if steps is None:
            return None
        return _one_run(self.name, replica, seed, (steps, host_times(_hidden_host(self.name, replica))))

    def latent(self, replica: ReplicaSpec) -> Latent:
        """What is true of the replica's cache and of its drafter."""
        return _hidden_latent(self.name, replica)


def _one_run(
    world: str, replica: ReplicaSpec, seed: int, truth: tuple[StepTimes, HostTimes]
) -> tuple[StepTimes, HostTimes]:
    """The same with the noise of one run: equal for equal worlds, replicas and seeds."""
    draw = _drawn(world, "run", str(seed), *_facts(replica))
    device, host = (math.exp(sd * z) for sd, z in zip(ratios.RUN_LOG_SD, draw.standard_normal(2), strict=True))
    steps, outside = truth
    return replace(steps, scale=steps.scale * device), HostTimes(
        outside.request_s * host, outside.request_token_s * host, outside.frontend_token_s * host
    )


def _hidden_host(world: str, replica: ReplicaSpec) -> Efficiency:
    """Shared constants with host costs of this accelerator's machines."""
    on_cpu = replica.accelerator.vendor is Vendor.CPU
    base = efficiency_of(replica.accelerator.generation, cpu=True) if on_cpu else MEASURED_HOST
    draw = _drawn(world, "host", replica.accelerator.name)
    factors = np.exp(ratios.HOST_LOG_SD * draw.standard_normal(5))
    names = ("host_s", "sequence_host_s", "frontend_token_s", "request_s", "request_token_s")
    return replace(base, **{n: getattr(base, n) * float(f) for n, f in zip(names, factors, strict=True)})


def _hidden_costs(world: str, replica: ReplicaSpec) -> CostFactors:
    """What methods cost on this accelerator, and this model's drafter of the replica's kind."""
    device = _drawn(world, "method costs", replica.accelerator.name).standard_normal(2)
    sds = ratios.WAITING_LOG_SD, ratios.INTERACTIVITY_LOG_SD
    waiting, interactivity = (math.exp(sd * z) for sd, z in zip(sds, device, strict=True))
    cost, _ = _drafter(world, replica)
    return CostFactors(math.exp(ratios.DRAFT_LOG_SD * cost), waiting, interactivity)


def _hidden_latent(world: str, replica: ReplicaSpec) -> Latent:
    """The cache of this accelerator in this layout, and this model's drafter of the replica's kind."""
    z = float(_drawn(world, "cache", replica.accelerator.name, replica.layout.name).standard_normal())
    kv_ratio = math.exp(ratios.KV_LOG_SD * min(max(z, -_MOST_KV_SD), _MOST_KV_SD))
    _, acceptance = _drafter(world, replica)
    return Latent(kv_ratio, ratios.ACCEPTANCE_OFFSET_SD * acceptance)


def _drafter(world: str, replica: ReplicaSpec) -> tuple[float, float]:
    """Standard normal values for the cost and the acceptance of a drafter."""
    speculation = replica.settings.speculation
    if speculation is None:
        return 0.0, 0.0
    cost, acceptance = _drawn(world, "drafter", replica.architecture.name, speculation.kind.value).standard_normal(2)
    return float(cost), float(acceptance)


class _Bends:
    """The factors of one replica in one world."""

    def __init__(self, world: str, replica: ReplicaSpec) -> None:
        self._world = world
        self._replica = replica

    def line(self, ratio: Ratio, points: FloatArray, values: FloatArray) -> FloatArray:
        """A table over tokens, bent and made to rise again."""
        factors = np.interp(_log(points), _log(np.array(ratio.nodes)), self._log_factors(ratio))
        return np.maximum.accumulate(values * np.exp(factors))

    def surface(self, ratio: Ratio, size: FloatArray, values: FloatArray) -> FloatArray:
        """A table over two shapes, by the size of the work at each of its points."""
        factors = np.interp(_log(size), _log(np.array(ratio.nodes)), self._log_factors(ratio))
        bent = np.maximum.accumulate(values * np.exp(factors), axis=0)
        return np.asarray(np.maximum.accumulate(bent, axis=1))

    def launch_s(self) -> float:
        """The launch of prompts' attention."""
        layers = self._replica.architecture.layers
        z = _drawn(self._world, "launch", self._replica.accelerator.name).standard_normal()
        return float(layers * ratios.LAUNCH_LAYER_S * math.exp(ratios.LAUNCH_LOG_SD * z))

    def _log_factors(self, ratio: Ratio) -> FloatArray:
        """Mean, accelerator, model on it and layout, each with a part for all shapes and one for each range.

        Where a method changes the format that the operation depends on, of weights for products and of the cache for
        attention, what that does on the device is a part of its own; the other parts stay.
        """
        own = self._drawn_log(ratio)
        return own + self._drawn_log(ratios.NARROWED[ratio.name]) if self._is_narrowed(ratio) else own

    def _drawn_log(self, ratio: Ratio) -> FloatArray:
        total = np.array(ratio.mean_log)
        device, model, layout = _facts(self._replica)
        for keys, sds in (
            ((device,), ratio.device_log_sd),
            ((device, model), ratio.model_log_sd),
            ((device, model, layout), ratio.layout_log_sd),
        ):
            z = _drawn(self._world, ratio.name, *keys).standard_normal(1 + len(total))
            total += sds[0] * z[0] + sds[1] * z[1:]
        return total

    def _is_narrowed(self, ratio: Ratio) -> bool:
        """Whether the replica has what the operation reads in FP8 and its checkpoint does not say so."""
        is_attention = ratio in (ratios.DECODE, ratios.CHUNK)
        return self._replica.narrows_cache if is_attention else self._replica.narrows_weights


def _facts(replica: ReplicaSpec) -> tuple[str, str, str]:
    """What the hidden factors hang on; a checkpoint of another format is another model."""
    return replica.accelerator.name, replica.architecture.name, replica.layout.name


def _drawn(*keys: str) -> np.random.Generator:
    """Random numbers that are the same for the same words in every process."""
    digest = hashlib.sha256("\x00".join(keys).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def _log(values: FloatArray) -> FloatArray:
    return np.log(np.maximum(values, 1.0))
