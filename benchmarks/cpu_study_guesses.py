"""What predictors and the simulator say of a study's questions, and constants fitted on some of its rows.

Separate from the rows and from the judging: every guess is an array of the same shape, whoever made it.

What is fitted: nine constants of the roofline, as factors of the CPU's assumed ones, by robust least squares on the
logarithms of TTFT, TPOT and tokens per second of the analytical predictor, held near 1 by a prior. The judged model's
rows are never among those that are fitted on.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from cpu_study_rows import Truth
from scipy.optimize import least_squares

from metainf.corpus.runs import Run
from metainf.corpus.task import TrafficKind
from metainf.efficiencies import Efficiency
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.contract import FloatArray, Predictor, Question
from metainf.simulator.builder import engine_model
from metainf.step_times.roofline import host_times, roofline_step_times

__all__ = ["Guess", "fitted", "left_out", "predicted", "simulated"]

Guess = tuple[FloatArray, FloatArray]
"""Performance, shape (n, m), and figures, shape (n, m, 3) as `Truth` has them; NaN where there is no question."""

_FITTED = (
    *("memory", "matrix", "cache_memory", "attention_matrix", "layer_s", "expert_layer_s"),
    *("host_s", "sequence_host_s", "request_s"),
)
_SHARES = ("memory", "matrix", "cache_memory", "attention_matrix")
_PRIOR_LOG_SD = 1.0
_ROBUST_LOG = 0.3
_MOST_EVALUATIONS = 40
_SEED = 0


def predicted(truth: Truth, predictor: Predictor) -> Guess:
    """By a predictor, asked about all at once."""
    asked = list(truth.questions)
    answers = predictor.predict([truth.questions[at] for at in asked])
    performance, figures = _empty(truth)
    for place, at in enumerate(asked):
        is_batch = truth.kind is TrafficKind.BATCH
        performance[at] = 1.0 / answers.makespan_s[place] if is_batch else answers.output_tokens_per_second[place]
        figures[at] = (
            answers.latency_s[place, 0, 0],
            answers.latency_s[place, 1, 0],
            answers.output_tokens_per_second[place],
        )
    return performance, figures


def simulated(truth: Truth, efficiency: Callable[[str], Efficiency]) -> Guess:
    """By the simulator over the roofline with the constants for each model, with expected acceptance of drafts."""
    performance, figures = _empty(truth)
    for (row, column), question in truth.questions.items():
        constants = efficiency(truth.tasks[row].model)
        run = _run(truth, row, column, question, constants)
        load = truth.tasks[row].traffic.load
        if truth.kind is TrafficKind.BATCH:
            found = run.batch(load.requests)
            performance[row, column] = 1.0 / found.makespan_s if found.makespan_s > 0.0 else np.nan
        else:
            found = run.closed_loop(load.concurrency)
            performance[row, column] = found.output_tokens_per_second
        latency = found.latencies.value_s
        figures[row, column] = latency[0, 0], latency[1, 0], found.output_tokens_per_second
    return performance, figures


def _run(truth: Truth, row: int, column: int, question: Question, constants: Efficiency) -> Run:
    replica, task = question.replica, truth.tasks[row]
    engine = engine_model(replica, repetitiveness=task.traffic.repetitiveness)
    steps, host = roofline_step_times(replica, constants), host_times(constants)
    # The bench empties the prefix cache before each run.
    return Run(task, truth.methods[column], replica, engine, steps, host, _SEED, warm=False)


def left_out(truth: Truth, constants: dict[str, Efficiency]) -> Guess:
    """By the analytical predictor, each model under constants fitted without it."""
    performance, figures = _empty(truth)
    for name, efficiency in constants.items():
        part = predicted(truth, AnalyticalPredictor(efficiency))
        mine = truth.model == name
        performance[mine], figures[mine] = part[0][mine], part[1][mine]
    return performance, figures


def fitted(truths: Sequence[Truth], start: Efficiency, *, without: str) -> Efficiency:
    """Constants fitted on the rows of all models but one."""
    kept = [truth.model != without for truth in truths]

    def scaled(logs: FloatArray) -> Efficiency:
        values = {name: getattr(start, name) * float(np.exp(log)) for name, log in zip(_FITTED, logs, strict=True)}
        return replace(start, **{name: min(1.0, v) if name in _SHARES else v for name, v in values.items()})

    def errors(logs: FloatArray) -> FloatArray:
        predictor = AnalyticalPredictor(scaled(logs))
        found = []
        for truth, mine in zip(truths, kept, strict=True):
            figures = predicted(truth, predictor)[1]
            with np.errstate(divide="ignore", invalid="ignore"):
                apart = np.log(figures[mine] / truth.figures[mine]).ravel()
            found.append(np.where(np.isfinite(apart), apart, 0.0))
        return np.concatenate([*found, logs / _PRIOR_LOG_SD])

    at = least_squares(
        errors, np.zeros(len(_FITTED)), loss="soft_l1", f_scale=_ROBUST_LOG, max_nfev=_MOST_EVALUATIONS, diff_step=0.05
    )
    return scaled(at.x)


def _empty(truth: Truth) -> Guess:
    shape = truth.performance.shape
    return np.full(shape, np.nan), np.full((*shape, 3), np.nan)
