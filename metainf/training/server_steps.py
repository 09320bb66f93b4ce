"""Fits what real servers take beside kernels that were measured alone, by rows of real servers.

Separate from `step_factors`, which learns an accelerator's kernels from a corpus. Dense products of 16 bits are slower
in servers than alone: rows of Qwen3-32B and Qwen3-14B from two sources, on A100 and H100 and vLLM 0.11 and 0.12, agree
on it. By what is not known; that clocks fall under a load that lasts would explain it, and so would what engines have
learnt since. So it has one factor for all accelerators, on top of their own. All else is left as it was measured: with
factors on what a step takes at least, on the frontend and on requests as well, TPOT of generations that were held out
was off by .13 instead of .10; with one on all products, TTFT of models that were held out by .26 instead of .18.

Factors are the mean of the posterior around 1, by least squares (Gauss-Newton) on the whole predictor's answers, trees
included; rows that are far off count for less (Huber's weights), and what one source has of a model on an accelerator
counts for a few rows, however many these are. Of closed loops the two latencies count, from which their throughput
follows; of batches the throughput alone, since latencies are queueing there.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from metainf.artifact import manifest_number
from metainf.engine_versions import EngineVersion, parse_engine_version
from metainf.errors import InvalidWorkloadError
from metainf.evaluation.groups import about, accelerator_group, model_groups
from metainf.evaluation.measured_questions import question_of
from metainf.measurements import Source
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.base_answers import MAKESPAN
from metainf.predictors.contract import LATENCY_METRICS, STATISTICS, Predictor, Question
from metainf.predictors.corrections import TrainedModel
from metainf.predictors.step_factors import PARTS, on_part
from metainf.predictors.trained import TrainedPredictor
from metainf.training.spreads import CONFIDENCE, DEVIATIONS
from metainf.workload import BatchLoad, LatencyMetric, Statistic

__all__ = [
    "FIGURES",
    "SERVER_PARTS",
    "ServerFigures",
    "ServerRows",
    "ServerSteps",
    "fitted_servers",
    "server_errors",
    "server_rows",
]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.intp]
StringArray = NDArray[np.str_]

FIGURES = ("ttft_mean", "tpot_mean", "throughput")
"""What is held against real servers."""
SERVER_PARTS = ("plain_dense_token",)
"""Parts of the step model that servers have a factor on."""

_NO_FIGURES = np.full(len(FIGURES), np.nan)
_EARLIEST = EngineVersion(0, 10)
"""Of vLLM: with this one the V1 engine, which is what is simulated, was all that was left of its engines."""
_ROUNDS = 3
_STEP = 0.1  # of a logarithm, for differences
_LOG_SD = 0.3  # of a factor around 1
_NOISE_LOG_SD = 0.3  # of a row, what its model and accelerator have of their own included
_PLACE_ROWS = 3.0
_FAR = 0.5  # an error from which on it counts as its distance and not as its square


@dataclass(frozen=True, slots=True, eq=False)
class ServerRows:
    """n rows of real servers, as questions with what came out.

    Attributes
    ----------
    questions : n of them
    truth : array of shape (n, 3)
        Logarithms of FIGURES, seconds and output tokens per second; NaN where one does not count.
    source : array of shape (n,)
    model, accelerator : arrays of shape (n,)
        The groups that are held out together.
    place : array of shape (n,)
        A number for each source, model with its precision, and accelerator.
    digest : str
        Of the rows that these are of.
    """

    questions: tuple[Question, ...]
    truth: FloatArray
    source: StringArray
    model: StringArray
    accelerator: StringArray
    place: IntArray
    digest: str

    def __len__(self) -> int:
        return len(self.questions)


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """How predictors do on rows of one source: median absolute errors of logarithms, NaN where one has no answer.

    `analytical` has seen these rows when its constants were fitted, `kernels` is the trained predictor without factors
    of servers. The others have those of the rows without the row's accelerator generation, or without its model family.
    """

    rows: int
    analytical: float
    kernels: float
    generation_out: float
    model_out: float
    coverage: float
    """Share of the rows within their 90 % intervals, with the generation out."""


@dataclass(frozen=True, slots=True, eq=False)
class ServerSteps:
    """What rows of real servers teach.

    Attributes
    ----------
    log : array of shape (parts,)
        Logarithms of factors, on top of each accelerator's; 0 of what is none of SERVER_PARTS.
    batch_inflation : float
        What spreads of batches are multiplied by, at least 1, so that they hold 90 % of held-out rows.
    figures : source -> figure -> how well
    digest : str
        Of the rows.
    """

    log: FloatArray
    batch_inflation: float
    figures: Mapping[str, Mapping[str, ServerFigures]]
    digest: str

    def applied(self, model: TrainedModel) -> TrainedModel:
        """The model over the steps of servers."""
        log_sd = model.log_sd.copy()
        log_sd[..., MAKESPAN] *= self.batch_inflation
        return replace(_moved(model, self.log), log_sd=log_sd)

    @property
    def metrics(self) -> Mapping[str, Any]:
        """All of it, as the manifest of an artifact has it."""
        return {
            "log": {part: manifest_number(float(self.log[PARTS.index(part)])) for part in SERVER_PARTS},
            "batchInflation": manifest_number(self.batch_inflation),
            "digest": self.digest,
            "figures": {
                source: {
                    name: {
                        "rows": each.rows,
                        "analytical": manifest_number(each.analytical),
                        "kernels": manifest_number(each.kernels),
                        "generationOut": manifest_number(each.generation_out),
                        "modelOut": manifest_number(each.model_out),
                        "coverage": manifest_number(each.coverage),
                    }
                    for name, each in figures.items()
                }
                for source, figures in self.figures.items()
            },
        }


def server_rows(table: pa.Table, held_out: Collection[str] = (), *, any_engine: bool = False) -> ServerRows:
    """What of a measurement table of vLLM servers can be put as a question and has a figure that counts.

    `held_out` names models, accelerators or groups of either whose rows are left out. `any_engine` keeps those of older
    engines than are simulated: to judge by, and not to learn from.

    Raises
    ------
    InvalidWorkloadError
        No row of it can.
    """
    kept: list[tuple[Mapping[str, Any], FloatArray, Question]] = []
    for row in table.to_pylist():
        figures = _figures(row) if any_engine or _is_recent(row) else _NO_FIGURES
        question = question_of(row) if np.isfinite(figures).any() else None
        if question is not None:
            kept.append((row, figures, question))
    models = [question.replica.architecture.name for _, _, question in kept]
    devices = [question.replica.accelerator.name for _, _, question in kept]
    left = np.any([about(name, models, devices) for name in held_out], axis=0) if held_out else np.zeros(len(kept))
    kept = [each for each, is_left in zip(kept, left, strict=True) if not is_left]
    if not kept:
        raise InvalidWorkloadError(
            f"learning from real servers needs rows of known models on vLLM {_EARLIEST} or later, and there are none"
        )
    rows, truth, questions = zip(*kept, strict=True)
    models = [question.replica.architecture.name for question in questions]
    families = model_groups(models)
    devices = [question.replica.accelerator.name for question in questions]
    places = [
        f"{row['source']}\0{model}\0{row['method']}\0{device}"
        for row, model, device in zip(rows, models, devices, strict=True)
    ]
    return ServerRows(
        questions=questions,
        truth=np.array(truth),
        source=np.array([row["source"] for row in rows], dtype=np.str_),
        model=np.array([families[model] for model in models], dtype=np.str_),
        accelerator=np.array([accelerator_group(device) for device in devices], dtype=np.str_),
        place=np.unique(places, return_inverse=True)[1].astype(np.intp).ravel(),
        digest="sha256:" + hashlib.sha256(repr(rows).encode()).hexdigest(),
    )


def _figures(row: Mapping[str, Any]) -> FloatArray:
    """Logarithms of FIGURES, NaN of what does not count."""
    found = _NO_FIGURES.copy()
    if row["source"] == Source.SIMULATION:
        return found
    told = (None, None, row["output_tokens_per_second"])
    if row["batch_requests"] is None:
        # Who cannot tell how far tokens are apart cannot tell the first from the next either.
        told = (row["ttft_mean_s"], row["tpot_mean_s"], None) if row["tpot_mean_s"] else (None, None, None)
    for place, value in enumerate(told):
        if value is not None and value > 0.0:
            found[place] = np.log(value)
    return found


def _is_recent(row: Mapping[str, Any]) -> bool:
    """Whether the engine is one that is simulated; the silicon sample, which omits some versions, has no early one."""
    try:
        return parse_engine_version(row["engine_version"]) >= _EARLIEST
    except InvalidWorkloadError:
        return bool(row["source"] == Source.SILICON)


def fitted_servers(model: TrainedModel, rows: ServerRows) -> ServerSteps:
    """What the rows say that servers take beside a model's kernels, and how well that carries over."""
    kernels, _ = server_errors(TrainedPredictor(model, ""), rows)
    slopes = _slopes(model, rows, kernels)
    everything = np.ones(len(rows), dtype=np.bool_)
    analytical, _ = server_errors(AnalyticalPredictor(), rows)
    (by_generation, sd), (by_model, _) = (
        _held_out(model, rows, slopes, groups) for groups in (rows.accelerator, rows.model)
    )
    figures: dict[str, dict[str, ServerFigures]] = {}
    for source in sorted(set(rows.source.tolist())):
        for place, name in enumerate(FIGURES):
            mine = (rows.source == source) & ~np.isnan(kernels[:, place])
            if mine.any():
                held = np.abs(by_generation[mine, place]) <= DEVIATIONS * sd[mine, place]
                figures.setdefault(source, {})[name] = ServerFigures(
                    rows=int(mine.sum()),
                    analytical=_median(analytical[mine, place]),
                    kernels=_median(kernels[mine, place]),
                    generation_out=_median(by_generation[mine, place]),
                    model_out=_median(by_model[mine, place]),
                    coverage=float(held.mean()),
                )
    batches = np.array([isinstance(question.traffic.load, BatchLoad) for question in rows.questions])
    log = _fitted(model, rows, slopes, everything)
    return ServerSteps(log, _inflation(by_generation[batches, -1], sd[batches, -1]), figures, rows.digest)


def _moved(model: TrainedModel, log: FloatArray) -> TrainedModel:
    return replace(model, factors=model.factors.moved(log))


def _slopes(model: TrainedModel, rows: ServerRows, before: FloatArray) -> FloatArray:
    """By how much predictions rise with the logarithm of each factor, shape (server parts, n, 3); 0 where unknown.

    `before` are the model's errors.
    """
    found = np.zeros((len(SERVER_PARTS), *before.shape))
    for place, part in enumerate(SERVER_PARTS):
        after, _ = server_errors(TrainedPredictor(_moved(model, on_part(part, _STEP)), ""), rows)
        found[place] = np.nan_to_num((before - after) / _STEP)  # an error is truth less prediction
    return found


def _fitted(model: TrainedModel, rows: ServerRows, slopes: FloatArray, inside: BoolArray) -> FloatArray:
    """Logarithms of the factors by the rows inside, shape (parts,)."""
    places = [PARTS.index(part) for part in SERVER_PARTS]
    count = np.bincount(rows.place)[rows.place]
    weight = _PLACE_ROWS / np.maximum(count, _PLACE_ROWS) / _NOISE_LOG_SD**2
    slope = slopes[:, inside].reshape(len(places), -1)
    prior = np.eye(len(places)) / _LOG_SD**2
    log = np.zeros(len(PARTS))
    for _ in range(_ROUNDS):
        errors, _ = server_errors(TrainedPredictor(_moved(model, log), ""), rows)
        left = errors[inside]
        known = np.where(np.isnan(left), 0.0, weight[inside, None])
        left = np.nan_to_num(left)
        weighted = slope * (known / np.maximum(1.0, np.abs(left) / _FAR)).ravel()
        matrix = weighted @ slope.T
        log[places] = np.linalg.solve(matrix + prior, weighted @ left.ravel() + matrix @ log[places])
    return log


def _held_out(
    model: TrainedModel, rows: ServerRows, slopes: FloatArray, groups: StringArray
) -> tuple[FloatArray, FloatArray]:
    """Errors of each row by factors that its group did not teach, and the spreads they have, shape (n, 3) both."""
    errors, sd = (np.full(rows.truth.shape, np.nan) for _ in range(2))
    for group in sorted(set(groups.tolist())):
        mine = groups == group
        found = _moved(model, _fitted(model, rows, slopes, ~mine))
        told = server_errors(TrainedPredictor(found, ""), rows)
        errors[mine], sd[mine] = told[0][mine], told[1][mine]
    return errors, sd


def server_errors(predictor: Predictor, rows: ServerRows) -> tuple[FloatArray, FloatArray]:
    """log(truth / prediction), NaN where not known, and the spread of it, shape (n, 3) both."""
    found = predictor.predict(rows.questions)
    mean = STATISTICS.index(Statistic.MEAN)
    ttft, tpot = (LATENCY_METRICS.index(metric) for metric in (LatencyMetric.TTFT, LatencyMetric.TPOT))
    latency, spread = found.latency_s[:, :, mean], found.latency_log_sd[:, :, mean]
    told = np.stack([latency[:, ttft], latency[:, tpot], found.output_tokens_per_second], axis=1)
    sd = np.stack([spread[:, ttft], spread[:, tpot], found.throughput_log_sd], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = rows.truth - np.log(told)
    return np.where(np.isfinite(errors), errors, np.nan), sd


def _median(errors: FloatArray) -> float:
    known = errors[~np.isnan(errors)]
    return float(np.median(np.abs(known))) if len(known) else float("nan")


def _inflation(errors: FloatArray, sd: FloatArray) -> float:
    """What spreads have to be multiplied by to hold 90 % of these errors, at least 1."""
    known = ~np.isnan(errors)
    if not known.any():
        return 1.0
    needed = np.quantile(np.abs(errors[known]) / (DEVIATIONS * sd[known]), CONFIDENCE, method="higher")
    return max(1.0, float(needed))
