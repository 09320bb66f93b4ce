"""Holds the simulator and the sources of step times against open measurements of real vLLM servers.

    python benchmarks/simulator_truth.py --wheel SITE_PACKAGES/aiconfigurator_core --store FOLDER
        [--measured FOLDER] [--fpm FOLDER] [--every N] [--own] [--json FILE] [--report FILE]

Sets, none of which is copied here:

- silicon: TTFT and TPOT of aggregated vLLM rows of silicon_sample.csv (aiconfigurator-core 0.12.0), simulated over its
  own tables where there are any and over the roofline. Assumed recipe: a closed loop, 10 requests for each client, all
  clients at once at the start, lengths even between 0.8 and 1 of the nominal; means. Block-wise FP8 has no trustworthy
  table and is judged by the roofline alone.
- fpm: 75,136 whole forward passes of vLLM 0.25.1 in the wheel aisimulate 0.12.0.dev1 against step times alone.
- argonne, gpustack: throughput of batches, as `open_measurements` reads them.

Six constants (`metainf.step_times.hosts`), and a factor on the device's time for each generation, are fitted on rows of
up to 64 clients. Every error shown as left out is of constants fitted without the row's accelerator generation, or
without its model's maker: one Gauss-Newton step on the other rows from the common fit. `--own` runs aiconfigurator's
estimator on the same rows.

Results (2 shared cores, one process; every row; a minute with `--own`), median absolute error and Spearman:

- silicon over tables, 625 rows: generation left out TTFT 16.8 % (.958), TPOT 7.6 % (.937), tokens/s 7.4 % (.992);
  maker left out 17.0 %, 8.3 %, 8.2 %. aiconfigurator itself, which refuses 15 of them: 30.8 % (.826), 9.0 % (.936),
  9.9 % (.993). Means: TTFT 22.5 % against 36.5 %, TPOT 16.3 against 16.4 %, made by gpt-oss at 512 clients and more on
  H100.
- by device, generation left out, TTFT and TPOT: B200 17.3 and 7.7 %, B300 14.2 and 8.0 %, H100 20.4 and 8.2 %, H200
  13.0 and 6.0 %. By model: Llama-3.1-70B NVFP4 15.5 and 4.2 %, FP8 16.4 and 6.3 %; Qwen3-32B 17.7 and 6.9 %;
  MiniMax-M2.5 NVFP4 15.6 and 8.1 %; gpt-oss-120b 15.4 and 9.2 %; Kimi-K2.5 NVFP4 30.6 and 15.5 %, INT4 12.8 and 18.2
  %.
- silicon over the roofline under the constants of `metainf.efficiencies`, which were fitted on these rows by a mean-
  field model: 21.5 %, 12.0 %, 12.3 % of 1,013 rows; block-wise FP8 apart (270): 10.9 %, 8.8 %, 9.4 %.
- forward passes over the roofline, 75,136: 23.7 % (.859), nearly all of it too fast: MiniMax-M2.7 15 to 23 % by layout
  (.96 to .99), GLM-5.2 39 and 54 %, whose sparse attention of prompts waits for its launches. The library's own sums,
  on 3,312 of them: 13.8 % (.913), mean 59.9 % against 28.1 %.
- batches over the roofline: GPUStack 19.0 % (.990) of 90; Argonne, vLLM of 2024, 25.4 % (.947) of 1,677: H100 7.9 %,
  A100 8.0 %, GH200 9.2 %, MI250 12.5 %, MI300X 90 %.

TTFT misses the aim of 15 %. Where: rows of 4 clients come out an eighth too slow and those of 128 a sixth too fast, of
256 by a third and of 512 by half, and one deployment differs by half between dumps of two months (MiniMax-M2.5 NVFP4 on
B200, TP2, 8 clients: 66 and 104 ms). Tried on the fit's rows beside the constants, when the median was 18.0 %: a
constant more 18.3 %, 1.4 decoding steps more 17.7 %, 0.3 ms for each client and half a step 16.6 %; medians or warm-up
left out, 35 to 39 %. Equal lengths give 2.8 times the measured TTFT. What a request costs and what its tokens do can
hardly be told apart: started from its own result the fit goes on along that line, and the errors stay.
"""

import argparse
import json
import logging
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from calibrate_analytical import gpu_group, model_group
from numpy.typing import NDArray
from open_measurements import Row, Specs, argonne_rows, gpustack_rows, silicon_rows
from truth_report import Line, markdown, report
from truth_rows import MeasuredSteps, config_of, fpm_steps, requests_of

from metainf.efficiencies import GENERIC, Efficiency, efficiency_of
from metainf.predictors.contract import FloatArray, ReplicaSpec
from metainf.simulator.builder import engine_model
from metainf.simulator.contract import EngineModel, HostTimes, StepTimes
from metainf.simulator.engine import simulate
from metainf.step_times import oracle
from metainf.step_times.hosts import DEVICE_SCALE, MEASURED_HOST
from metainf.step_times.lookup import step_s
from metainf.step_times.measured import measured_step_times, measured_tables
from metainf.step_times.oracle import SYSTEMS, RefusalReason, TableRefusal
from metainf.step_times.roofline import host_times, roofline_step_times
from metainf.step_times.store import MeasuredTables, TableStore
from metainf.workload import ConcurrencyLoad

_HOST_NAMES = ("host_s", "sequence_host_s", "frontend_token_s", "request_s", "request_token_s")
_DEVICE_NAMES = ("token_s", "expert_s", "decode_s", "chunk_s", "prompt_step_s", "head_s", "head_row_s")
_GENERATIONS = ("Blackwell", "Hopper")
"""Each has a factor on the device's time beside the common one; of one that is left out nothing but the common is."""
_HOST_START = np.log([getattr(MEASURED_HOST, name) for name in _HOST_NAMES])
_START = np.array([*_HOST_START, math.log(DEVICE_SCALE), *(0.0 for _ in _GENERATIONS)])
_PRIOR_LOG_SD = np.array([0.7] * len(_HOST_NAMES) + [0.1] + [0.05] * len(_GENERATIONS))
_ROBUST_LOG = 0.15
_FIT_CLIENTS = 64
_FIT_EVERY = 6
_ITERATIONS = 3
_STEP = 0.1  # of a logarithm, for derivatives of something random in its last digits


def scaled(steps: StepTimes, scale: float) -> StepTimes:
    """The same with device times multiplied."""
    return replace(steps, **{name: getattr(steps, name) * scale for name in _DEVICE_NAMES})


@dataclass
class Simulated:
    """Simulates rows; remembers each deployment's limits, and the deployment, whose id another would have otherwise."""

    engines: dict[int, tuple[ReplicaSpec, EngineModel]]

    def means(self, row: Row, steps: StepTimes, host: HostTimes) -> FloatArray:
        """Mean TTFT, mean TPOT, output tokens per second; NaN where requests are refused."""
        replica, requests = row.question.replica, requests_of(row, seed=0)
        if id(replica) not in self.engines:
            self.engines[id(replica)] = replica, engine_model(replica)
        _, engine = self.engines[id(replica)]
        if engine.kv_blocks == 0:
            return np.full(3, np.nan)
        found = simulate(engine, steps, requests, host=host, seed=0)
        rate = float(requests.output_tokens.sum()) / found.makespan_s
        return np.array([found.ttft_s.mean(), np.nanmean(found.tpot_s(requests.output_tokens)), rate])


class Tables:
    """Measured tables of rows under constants."""

    def __init__(self, rows: Sequence[Row], found: dict[int, MeasuredTables], simulated: Simulated) -> None:
        self.rows = rows
        self._found = found
        self._simulated = simulated
        self.truth = np.array([[row.ttft_s, row.tpot_s, row.tokens_per_second] for row in rows])

    def means(self, at: FloatArray, indices: Sequence[int]) -> FloatArray:
        """Predictions for some rows, shape (len(indices), 3)."""
        values = np.exp(at).tolist()
        efficiency = replace(GENERIC, **dict(zip(_HOST_NAMES, values, strict=False)))
        host, answers = host_times(efficiency), []
        for row in (self.rows[i] for i in indices):
            steps = measured_step_times(row.question.replica, efficiency, self._found[id(row.question.replica)])
            device, own = len(_HOST_NAMES), len(_HOST_NAMES) + 1 + _GENERATIONS.index(gpu_group(row))
            answers.append(self._simulated.means(row, scaled(steps, values[device] * values[own]), host))
        return np.array(answers)

    def log_errors(self, at: FloatArray, indices: Sequence[int]) -> FloatArray:
        """log(truth / prediction) of TTFT and TPOT."""
        return np.asarray(np.log(self.truth[indices] / self.means(at, indices))[:, :2])


@dataclass(frozen=True)
class Fit:
    """The common constants, and what is needed to take rows out again."""

    at: FloatArray
    indices: Sequence[int]
    errors: FloatArray
    jacobian: FloatArray

    def without(self, left_out: NDArray[np.bool_]) -> FloatArray:
        """Constants of the other rows: one step from the common ones; `left_out` by row of the fit."""
        return self.at + _move(self.at, self.errors[~left_out], self.jacobian[~left_out])


def _move(at: FloatArray, errors: FloatArray, jacobian: FloatArray) -> FloatArray:
    """The step of robust least squares with the prior."""
    weight = 1.0 / np.sqrt(1.0 + (errors / _ROBUST_LOG) ** 2) / _ROBUST_LOG
    left = np.vstack([(jacobian * weight[..., None]).reshape(-1, len(at)), np.diag(1.0 / _PRIOR_LOG_SD)])
    right = np.concatenate([(errors * weight).ravel(), (_START - at) / _PRIOR_LOG_SD])
    return np.asarray(np.clip(np.linalg.lstsq(left, right, rcond=None)[0], -0.7, 0.7))


def fitted(tables: Tables) -> Fit:
    """Gauss-Newton on a part of the rows."""
    small = [i for i, row in enumerate(tables.rows) if clients_of(row) <= _FIT_CLIENTS]
    indices = small[::_FIT_EVERY]
    at = _START.copy()
    for iteration in range(_ITERATIONS):
        errors = tables.log_errors(at, indices)
        columns = [(errors - tables.log_errors(at + _STEP * unit, indices)) / _STEP for unit in np.eye(len(at))]
        jacobian = np.stack(columns, axis=-1)
        if iteration < _ITERATIONS - 1:
            at = at + _move(at, errors, jacobian)
    return Fit(at, indices, errors, jacobian)


def left_out(tables: Tables, fit: Fit, group_of: Callable[[Row], str], indices: Sequence[int]) -> FloatArray:
    """Predictions of every row under constants that were fitted without its group."""
    groups = [group_of(row) for row in tables.rows]
    answers = np.full((len(indices), 3), np.nan)
    for group in sorted(set(groups)):
        at = fit.without(np.array([groups[i] == group for i in fit.indices]))
        chosen = [place for place, i in enumerate(indices) if groups[i] == group]
        if chosen:
            answers[chosen] = tables.means(at, [indices[place] for place in chosen])
    return answers


def clients_of(row: Row) -> int:
    """Clients of a closed loop."""
    load = row.question.traffic.load
    return load.concurrency if isinstance(load, ConcurrencyLoad) else 0


def own_estimates(rows: Sequence[Row], wheel: Path) -> FloatArray:
    """TTFT, TPOT and tokens per second by aiconfigurator's own estimator; NaN where it refuses."""
    from aiconfigurator.cli.api import cli_estimate  # type: ignore[import-not-found, unused-ignore]

    answers = []
    for row in rows:
        replica, traffic = row.question.replica, row.question.traffic
        layout, system = replica.layout, SYSTEMS[replica.accelerator.name]
        config, side = config_of(wheel, row.model)
        options = {"tp_size": layout.tensor_parallel}
        if any(group.layer.mlp and group.layer.mlp.experts for group in replica.architecture.layer_groups):
            ranks = layout.tensor_parallel
            options |= {"moe_tp_size": 1 if layout.expert_parallel else ranks}
            options |= {"moe_ep_size": ranks if layout.expert_parallel else 1}
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "config.json").write_text(json.dumps(config))
            if side is not None:
                Path(folder, "hf_quant_config.json").write_text(json.dumps(side))
            try:
                found = cli_estimate(
                    folder, system.name, backend_name="vllm", backend_version=system.engine_version,
                    isl=int(traffic.input_tokens.mean_tokens), osl=int(traffic.output_tokens.mean_tokens),
                    batch_size=clients_of(row), **options,
                )  # fmt: skip
                answers.append((found.ttft / 1e3, found.tpot / 1e3, found.tokens_per_second))
            except Exception:  # its refusals have no base in common
                answers.append((np.nan, np.nan, np.nan))
    return np.array(answers, dtype=np.float64)


def silicon(arguments: argparse.Namespace, simulated: Simulated) -> list[Line]:
    """Closed loops over tables, and over the roofline."""
    rows = [as_served(row) for row in silicon_rows(arguments.wheel, Specs())]
    store, found, refused = TableStore(arguments.store), {}, Counter[str]()
    for row in rows:
        config, side = config_of(arguments.wheel, row.model)
        answer = measured_tables(row.question.replica, store, config=config, hf_quant_config=side)
        if isinstance(answer, TableRefusal):
            refused[answer.reason] += 1
        else:
            found[id(row.question.replica)] = answer
    others = sum(has_other_kernels(row) for row in rows)
    print(f"{len(rows)} silicon rows; without a table: {dict(refused)}; served with other kernels: {others}")
    chosen = [row for row in rows if id(row.question.replica) in found and not has_other_kernels(row)]
    lines = over_tables(Tables(chosen, found, simulated), arguments)
    every = rows[:: arguments.every]
    guess = np.array([simulated.means(row, *roofline_of(row.question.replica)) for row in every])
    truth = np.array([[row.ttft_s, row.tpot_s, row.tokens_per_second] for row in every])
    for by, label in (("format", _format), ("accelerator", _accelerator), ("model", _model)):
        lines += report(f"silicon over the roofline, by {by}", truth, guess, [label(row) for row in every])
    return lines


def has_other_kernels(row: Row) -> bool:
    """Whether the row was served by kernels that the tables have not.

    InferenceX serves gpt-oss on Blackwell with 8-bit activations (VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8); the vLLM tables
    have its experts with 16-bit ones alone, and prompts come out twice as slow. Judged by the roofline only.
    """
    return "gpt-oss" in row.model and gpu_group(row) == "Blackwell"


_EARLY_MODELS = frozenset({"Qwen--Qwen3-32B"})
"""Measured with vLLM 0.12.0 alone; asynchronous scheduling is the default since 0.14."""
_EARLY_SPECS: dict[int, ReplicaSpec] = {}


def as_served(row: Row) -> Row:
    """The row with the settings of its engine's version."""
    replica = row.question.replica
    if row.model not in _EARLY_MODELS:
        return row
    if id(replica) not in _EARLY_SPECS:
        settings = replace(replica.settings, asynchronous_scheduling=False)
        _EARLY_SPECS[id(replica)] = replace(replica, settings=settings)
    return replace(row, question=replace(row.question, replica=_EARLY_SPECS[id(replica)]))


def over_tables(tables: Tables, arguments: argparse.Namespace) -> list[Line]:
    """Closed loops over measured tables, constants fitted without what is judged."""
    indices = list(range(0, len(tables.rows), arguments.every))
    truth, chosen = tables.truth[indices], [tables.rows[i] for i in indices]
    fit, lines = fitted(tables), []
    print(
        "constants", dict(zip((*_HOST_NAMES, "device", *_GENERATIONS), np.exp(fit.at).round(8).tolist(), strict=True))
    )
    for left, group_of in (("generation", gpu_group), ("maker", model_group)):
        guess = left_out(tables, fit, group_of, indices)
        for by, label in (("accelerator", _accelerator), ("model", _model), ("clients", _clients)):
            title = f"silicon over tables, {left} left out, by {by}"
            lines += report(title, truth, guess, [label(row) for row in chosen])
    if arguments.own:
        own = own_estimates(chosen, arguments.wheel)
        for by, label in (("accelerator", _accelerator), ("model", _model)):
            title = f"silicon by aiconfigurator itself, by {by}"
            lines += report(title, truth, own, [label(row) for row in chosen])
    return lines


def _accelerator(row: Row) -> str:
    return row.question.replica.accelerator.name


def _model(row: Row) -> str:
    return row.model.split("--")[1]


def _clients(row: Row) -> str:
    return f"{clients_of(row):4d} clients"


def _format(row: Row) -> str:
    refusal = oracle.refusal_of(row.question.replica)
    return "block-wise FP8" if refusal and refusal.reason is RefusalReason.BLOCK_FP8 else "other formats"


def roofline_of(replica: ReplicaSpec) -> tuple[StepTimes, HostTimes]:
    """Step times and host that the analytical predictor assumes."""
    efficiency: Efficiency = efficiency_of(replica.accelerator.generation)
    return roofline_step_times(replica, efficiency), host_times(efficiency)


def batches(arguments: argparse.Namespace, simulated: Simulated) -> list[Line]:
    """Throughput of batches."""
    rows = argonne_rows(arguments.measured, Specs())[:: arguments.every] + gpustack_rows(arguments.measured, Specs())
    guess = np.array([simulated.means(row, *roofline_of(row.question.replica))[2:] for row in rows])
    truth = np.array([[row.tokens_per_second] for row in rows])
    labels = [f"{row.source} {_accelerator(row)}" for row in rows]
    lines = report("batches over the roofline", truth, guess, [row.source for row in rows], ("tokens/s",))
    return lines + report("batches over the roofline, by accelerator", truth, guess, labels, ("tokens/s",))


def passes(arguments: argparse.Namespace) -> list[Line]:
    """Whole forward passes against step times: the roofline's, and sums of the library's operations."""
    truth, guess, kinds, layouts = [], [], [], []
    for steps in fpm_steps(arguments.fpm, arguments.wheel):
        roofline, _ = roofline_of(steps.replica)
        ranks = steps.replica.layout.data_parallel
        tokens = steps.decoding + steps.chunks * steps.chunk_tokens
        found = step_s(
            roofline, steps.decoding, steps.context_tokens, steps.chunk_tokens, steps.context_tokens,
            chunks=steps.chunks, all_tokens=ranks * tokens,
        )  # fmt: skip
        own = _operations_s(steps, arguments)
        truth.append(np.stack([steps.time_s, steps.time_s], axis=1))
        guess.append(np.stack([found, own], axis=1))
        kinds += [_kind(*each) for each in zip(steps.decoding, tokens, steps.context_tokens, strict=True)]
        layouts += [f"{steps.config.split('--')[1]} {steps.replica.layout.name}"] * len(tokens)
    names = ("roofline", "library")
    lines = report("forward passes by kind", np.concatenate(truth), np.concatenate(guess), kinds, names)
    return lines + report("forward passes by layout", np.concatenate(truth), np.concatenate(guess), layouts, names)


def _kind(decoding: float, tokens: float, context: float) -> str:
    size = next(s for s, most in (("1-8", 8), ("9-64", 64), ("65-512", 512), ("513-", np.inf)) if tokens <= most)
    prefix = "" if decoding or context == 0 else " after a prefix"
    return f"{'decode' if decoding else 'prompt'}{prefix}, {size} tokens"


_OWN_EVERY = 10  # of the passes that the library's operations are added up for, one call each


def _operations_s(steps: MeasuredSteps, arguments: argparse.Namespace) -> FloatArray:
    """Sums of the library's operations for a part of the passes, its block-wise FP8 tables included."""
    answers = np.full(len(steps.time_s), np.nan)
    if not arguments.own:
        return answers
    engine = oracle.compiled(steps.replica, *config_of(arguments.wheel, steps.config))
    if isinstance(engine, TableRefusal):
        return answers
    prompts, decodes = range(len(engine.prompt_names)), range(len(engine.decode_names))
    for i in range(0, len(answers), _OWN_EVERY):
        context = int(steps.context_tokens[i])
        try:
            if steps.decoding[i]:
                answers[i] = engine.decode_s(decodes, int(steps.decoding[i]), max(1, context))
            elif steps.chunks[i] == 1:
                answers[i] = engine.prompt_s(prompts, int(steps.chunk_tokens[i]), context)
        except Exception:  # a shape that was not measured
            continue
    return answers


def main() -> None:
    """Run what is asked for, print it, keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True, help="the installed folder aiconfigurator_core")
    parser.add_argument("--store", type=Path, required=True, help="folder of sampled tables")
    parser.add_argument("--measured", type=Path, help="the folder with the sets of batches")
    parser.add_argument("--fpm", type=Path, help="the folder aiconfigurator_core of the aisimulate wheel")
    parser.add_argument("--every", type=int, default=1, help="take every Nth row")
    parser.add_argument("--own", action="store_true", help="run aiconfigurator on the same rows too")
    parser.add_argument("--json", type=Path, help="write every line of the tables there")
    parser.add_argument("--report", type=Path, help="write the tables there, as Markdown")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # the library says much on each call
    simulated = Simulated({})
    lines = passes(arguments) if arguments.fpm else []
    lines += batches(arguments, simulated) if arguments.measured else []
    lines += silicon(arguments, simulated)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(line) for line in lines], indent=1))
    if arguments.report:
        arguments.report.write_text(f"# The simulator beside real servers\n\n{markdown(lines)}")


if __name__ == "__main__":
    main()
