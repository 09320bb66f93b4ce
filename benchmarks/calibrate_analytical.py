"""Refits the constants of `metainf.efficiencies` and `metainf.predictors.spread` on open measurements.

Three sets of real servers, none of which is copied here:

- silicon: `systems/silicon_sample.csv` of the wheel aiconfigurator-core 0.12.0 (PyPI): TTFT and TPOT of vLLM on H100,
  H200, B200 and B300 in closed loops. The configs of its models come from the same wheel.
- argonne: llm_inference_bench_all.csv (argonne-lcf/LLM-Inference-Bench 4211f5d4, BSD-3): time of offline batches on
  A100, H100, GH200, MI250, MI300X and Intel Max 1550 with the vLLM of 2024.
- gpustack: gpustack_perflab.csv (gpustack/gpustack 47277d79, Apache-2.0): output tokens per second of 100 to 1,000
  requests sent at once on A100, H100 and H200.

    python benchmarks/calibrate_analytical.py --wheel SITE_PACKAGES/aiconfigurator_core --measured FOLDER

Errors are those of constants that were fitted without the row's accelerator family (H100 with H200 and GH200, B200
with B300), or without its model; intervals are fitted on these errors.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from open_measurements import Row, Specs, argonne_rows, family_of, gpustack_rows, silicon_rows

from metainf.efficiencies import GENERIC, Efficiency
from metainf.predictors.analytical import predictions_of
from metainf.predictors.contract import FloatArray, ReplicaSpec
from metainf.predictors.lanes import lanes_of, replica_facts, replica_row
from metainf.predictors.spread import BASE_LOG_SD
from metainf.roofline import step_work


class Model:
    """Predictions of all rows as a function of the constants."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.questions = [row.question for row in rows]
        self.works = {id(q.replica): step_work(q.replica) for q in self.questions}
        self.truth = np.array([[r.ttft_s, r.tpot_s, r.tokens_per_second] for r in rows])
        self.fitted = np.array([[1.0, 1.0, 0.0 if r.derived else 1.0] for r in rows])

    def log_errors(self, efficiency: Callable[[ReplicaSpec], Efficiency]) -> FloatArray:
        """log(truth / prediction) of TTFT, TPOT and tokens per second; NaN where not measured."""

        def row(spec: ReplicaSpec) -> FloatArray:
            facts = replica_facts(spec, efficiency(spec), self.works[id(spec)])
            return replica_row(*facts, spec.settings.speculation)

        lanes = lanes_of(self.questions, lambda specs: np.array([row(spec) for spec in specs]))
        answer = predictions_of(lanes, np.zeros((len(self.questions), 2)))
        guess = np.stack(
            [answer.latency_s[:, 0, 0], answer.latency_s[:, 1, 0], answer.output_tokens_per_second], axis=1
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = np.log(self.truth / guess)
        return np.where(np.isfinite(errors), errors, np.nan)


_NAMES = tuple(f.name for f in fields(Efficiency))
_PER_FAMILY = ("memory", "matrix", "cache_memory")
_OLD_ENGINE = ("host_s", "sequence_host_s", "layer_s")
"""What the engines of 2024 cost more; fitted beside, used for nothing but to read their batches."""
_PRIOR_LOG_SD = {
    **{"shared": 0.7, "family": 0.5, "old": 0.5},
    **{"narrow_matrix_ratio": 0.1, "frontend_token_s": 0.05, "loaded_ratio": 0.02, "narrow_cache_ratio": 0.02},
}
"""The work per streamed token is held where the simulator found it: few rows stream so much that it limits them, and as
a wait alone it takes up what other parts of a first token miss. The ratio of narrow products is held near 0.65: no rows
here differ in it alone, and the choice of fp8 hangs on it. What is reached while loading and of a cache of 8 bits is as
measured kernels have it: no row has either.

Source: medians of gemm_perf.parquet (vLLM 0.24.0, m >= 2048, n and k >= 4096) in aiconfigurator-core 0.12.0, bf16 and
fp8 as shares of their peaks: H100 0.81 and 0.50, H200 0.79 and 0.55, B200 0.70 and 0.48 (nvfp4 0.43), L40S 0.64 and
0.51.
"""
_EARLY_FAMILIES = frozenset({"CDNA3", "Xe-HPC"})
"""Measured with the ports of 2024 alone, which reached a fraction of the silicon: kept from moving what is shared."""
_EARLY_LOG_SD = 2.0
_ROBUST_LOG = 0.15
"""Where least squares turn into least absolute deviations."""
_ITERATIONS = 12


class Fit:
    """Constants as logarithms: shared ones, families' factors, old engines' factors."""

    def __init__(self, model: Model, families: Sequence[str], rows: NDArray[np.intp]) -> None:
        self.model = model
        self.families = list(families)
        self.rows = rows
        groups = [(r.source, r.family, r.model) for r in model.rows]
        size = {g: groups.count(g) for g in set(groups)}
        self.weights = np.array([1.0 / math.sqrt(size[g]) for g in groups])[rows, None]
        self.old = {id(r.question.replica) for r in model.rows if r.source == "argonne"}
        n_family, n_old = len(self.families) * len(_PER_FAMILY), len(_OLD_ENGINE)
        self.start = np.array([math.log(getattr(GENERIC, n)) for n in _NAMES] + [0.0] * (n_family + n_old))
        self.prior_sd = np.array(
            [_PRIOR_LOG_SD.get(name, _PRIOR_LOG_SD["shared"]) for name in _NAMES]
            + [
                _EARLY_LOG_SD if family in _EARLY_FAMILIES else _PRIOR_LOG_SD["family"]
                for family in self.families
                for _ in _PER_FAMILY
            ]
            + [_PRIOR_LOG_SD["old"]] * n_old
        )

    def efficiency(self, at: FloatArray, family: str, *, old: bool = False) -> Efficiency:
        """Constants of a family; of one that was not fitted, the shared ones."""
        values = dict(zip(_NAMES, np.exp(at[: len(_NAMES)]).tolist(), strict=True))
        if family in self.families:
            first = len(_NAMES) + self.families.index(family) * len(_PER_FAMILY)
            for name, log_factor in zip(_PER_FAMILY, at[first : first + len(_PER_FAMILY)], strict=True):
                values[name] *= math.exp(log_factor)
        if old:
            for name, log_factor in zip(_OLD_ENGINE, at[-len(_OLD_ENGINE) :], strict=True):
                values[name] *= math.exp(log_factor)
        return Efficiency(**values)

    def log_errors(self, at: FloatArray) -> FloatArray:
        """log(truth / prediction) of all rows, those left out included."""
        made: dict[tuple[str, bool], Efficiency] = {}

        def efficiency(spec: ReplicaSpec) -> Efficiency:
            key = (family_of(spec.accelerator), id(spec) in self.old)
            if key not in made:
                made[key] = self.efficiency(at, key[0], old=key[1])
            return made[key]

        return self.model.log_errors(efficiency)

    def residuals(self, at: FloatArray) -> FloatArray:
        """Robust, weighted residuals of the rows to fit, and the prior's."""
        errors = np.nan_to_num(self.log_errors(at)[self.rows]) * self.model.fitted[self.rows]
        size = np.abs(errors) / _ROBUST_LOG
        robust = np.sign(errors) * _ROBUST_LOG * np.sqrt(2.0 * (np.sqrt(1.0 + size**2) - 1.0))
        scaled = (robust * self.weights).ravel() / _ROBUST_LOG
        return np.concatenate([scaled, (at - self.start) / self.prior_sd])

    def solve(self, start: FloatArray | None = None) -> FloatArray:
        """Levenberg-Marquardt with numerical derivatives, from the prior's mean or from another fit."""
        at, damping = (self.start if start is None else start).copy(), 1e-2
        now = self.residuals(at)
        for _ in range(_ITERATIONS):
            step = 1e-4
            jacobian = np.stack([(self.residuals(at + step * unit) - now) / step for unit in np.eye(len(at))], axis=1)
            gradient, curvature = jacobian.T @ now, jacobian.T @ jacobian
            while damping < 1e6:
                move = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), -gradient)
                then = self.residuals(at + np.clip(move, -1.0, 1.0))
                if then @ then < now @ now:
                    break
                damping *= 4.0
            else:
                break
            gain = float(now @ now - then @ then)
            at, now, damping = at + np.clip(move, -1.0, 1.0), then, damping / 4.0
            if gain < 1e-3:
                break
        return at


_Z_90 = 1.6448536269514722  # two-sided 90 %
_METRICS = ("TTFT", "TPOT", "tokens/s")


def moved(fit: Fit, at: FloatArray, other: Fit) -> FloatArray:
    """A fit's constants as the start of another's, which may lack a family."""
    start = other.start.copy()
    start[: len(_NAMES)] = at[: len(_NAMES)]
    start[-len(_OLD_ENGINE) :] = at[-len(_OLD_ENGINE) :]
    width = len(_PER_FAMILY)
    for place, family in enumerate(other.families):
        if family in fit.families:
            source = len(_NAMES) + fit.families.index(family) * width
            target = len(_NAMES) + place * width
            start[target : target + width] = at[source : source + width]
    return start


def held_out(model: Model, whole: Fit, at: FloatArray, group_of: Callable[[Row], str]) -> FloatArray:
    """Errors of every row under constants that were fitted without its group."""
    groups = [group_of(row) for row in model.rows]
    errors = np.full((len(model.rows), len(_METRICS)), np.nan)
    for group in sorted(set(groups)):
        inside = np.array([g == group for g in groups])
        left = np.flatnonzero(~inside)
        families = sorted({model.rows[i].family for i in left.tolist()})
        fit = Fit(model, families, left)
        errors[inside] = fit.log_errors(fit.solve(moved(whole, at, fit)))[inside]
    return errors


def model_group(row: Row) -> str:
    """Models that are left out together: one maker's."""
    name = row.model.lower()
    known = ("llama", "qwen", "mistral", "mixtral", "minimax", "kimi", "gpt-oss", "deepseek", "glm")
    return next((k for k in known if k in name.split("+", maxsplit=1)[0]), name).replace("mixtral", "mistral")


def gpu_group(row: Row) -> str:
    """Accelerators that are left out together."""
    return row.family.removesuffix(" Ultra")


def report(title: str, model: Model, errors: FloatArray, group_of: Callable[[Row], str], sd: FloatArray) -> None:
    """Median and 90 % error, bias, and the share of the truth inside of the 90 % interval, by group."""
    print(
        f"\n{title}\n{'group':22} {'metric':9} {'n':>5} {'median APE':>10} {'p90 |log|':>9} {'bias':>6} {'in 90 %':>8}"
    )
    groups = [group_of(row) for row in model.rows]
    inside: list[list[float]] = [[], [], []]
    for group in [*sorted(set(groups)), "all"]:
        rows = np.array([group in (g, "all") for g in groups])
        for column, metric in enumerate(_METRICS):
            e = errors[rows, column]
            e = e[np.isfinite(e)]
            if len(e) == 0:
                continue
            covered = float(np.mean(np.abs(e) <= _Z_90 * sd[column]))
            if group != "all":
                inside[column].append(covered)
            ape = np.median(np.abs(np.expm1(-e)))
            print(
                f"{group:22} {metric:9} {len(e):5d} {ape:10.1%} {np.quantile(np.abs(e), 0.9):9.2f} "
                f"{np.median(e):+6.2f} {covered:8.1%}"
            )
    for metric, shares in zip(_METRICS, inside, strict=True):
        print(f"mean over groups {metric}: {np.mean(shares):.1%} inside, worst group {min(shares):.1%}")


def spread_of(model: Model, errors: FloatArray, group_of: Callable[[Row], str]) -> FloatArray:
    """Log standard deviation per metric at which 90 % intervals hold 90 % of the truth, groups weighing the same."""
    groups = [group_of(row) for row in model.rows]
    weight = np.array([1.0 / groups.count(g) for g in groups])
    sds = []
    for column in range(len(_METRICS)):
        size = np.abs(errors[:, column])
        fine = np.isfinite(size)
        order = np.argsort(size[fine])
        share = np.cumsum(weight[fine][order]) / weight[fine].sum()
        sds.append(float(size[fine][order][np.searchsorted(share, 0.9)]) / _Z_90)
    return np.array(sds)


def main() -> None:
    """Fit, leave out, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True, help="the installed folder aiconfigurator_core")
    parser.add_argument("--measured", type=Path, required=True, help="the folder with the other two files")
    parser.add_argument("--fit-only", action="store_true", help="no groups left out")
    arguments = parser.parse_args()
    specs = Specs()
    rows = silicon_rows(arguments.wheel, specs)
    rows += argonne_rows(arguments.measured, specs)[::3]  # a third: neighbours in batch and length say the same
    rows += gpustack_rows(arguments.measured, specs)
    model = Model(rows)
    whole = Fit(model, sorted({row.family for row in rows}), np.arange(len(rows)))
    at = whole.solve()
    for name, value in zip(_NAMES, np.exp(at), strict=False):
        print(f"    {name}={value:.3g},")
    for family in whole.families:
        found = whole.efficiency(at, family)
        print(f'    "{family}": {{' + ", ".join(f'"{n}": {getattr(found, n):.3f}' for n in _PER_FAMILY) + "},")
    print("engines of 2024 cost more by", np.round(np.exp(at[-len(_OLD_ENGINE) :]), 2))
    errors = whole.log_errors(at)
    report("fitted on all rows", model, errors, gpu_group, spread_of(model, errors, gpu_group))
    if arguments.fit_only:
        return
    for title, group_of in (("accelerator generation left out", gpu_group), ("model left out", model_group)):
        errors = held_out(model, whole, at, group_of)
        sd = spread_of(model, errors, group_of)
        report(f"{title}; log standard deviations {np.round(sd, 2)}", model, errors, group_of, sd)
        report(f"{title}, by source", model, errors, lambda row: row.source, sd)
        report(f"{title}, with the intervals in force", model, errors, group_of, np.array(BASE_LOG_SD))


if __name__ == "__main__":
    main()
