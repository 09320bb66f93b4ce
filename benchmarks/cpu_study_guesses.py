"""What predictors and the simulator say of a study's questions, and constants fitted on some of its rows.

Separate from the rows and from the judging: every guess is an array of the same shape, whoever made it.

What is fitted: nine constants of the roofline, as factors of the CPU's assumed ones, by robust least squares on the
logarithms of TTFT, TPOT and tokens per second of the analytical predictor, held near 1 by a prior. The judged model's
rows are never among those that are fitted on.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from cpu_study_loads import sent_requests
from cpu_study_rows import Truth, medians, over_repeats
from scipy.optimize import least_squares

from metainf.corpus.task import TrafficKind
from metainf.efficiencies import Efficiency
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.contract import FloatArray, Predictor
from metainf.simulator.builder import engine_model
from metainf.simulator.contract import EngineModel, HostTimes, StepTimes
from metainf.simulator.engine import simulate
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


def predicted(truth: Truth, predictor: Predictor) -> Guess:
    """By a predictor, asked about all at once."""
    asked = list(truth.questions)
    performance, figures = _empty(truth)
    if not asked:
        return performance, figures
    answers = predictor.predict([truth.questions[at] for at in asked])
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
    """By the simulator over the roofline with the constants for each model, with expected acceptance of drafts.

    Every run is served as the bench did it: its own requests in as many rounds, each on an empty prefix cache and
    counted from the first request to the last answer. Repeats are taken together as those of the rows are.
    """
    by_repeat, values = np.full(truth.rounds.shape, np.nan), np.full((*truth.rounds.shape, 3), np.nan)
    known: dict[int, tuple[StepTimes, HostTimes]] = {}
    for (row, column), question in truth.questions.items():
        replica = question.replica
        if id(replica) not in known:
            constants = efficiency(truth.tasks[row].model)
            known[id(replica)] = roofline_step_times(replica, constants), host_times(constants)
        engine = engine_model(replica, repetitiveness=question.traffic.repetitiveness)
        for repeat in np.flatnonzero(truth.rounds[row, column]).tolist():
            at = row, column, repeat
            by_repeat[at], values[at] = _run(truth, at, engine, known[id(replica)])
    return over_repeats(by_repeat, truth.default), medians(values)


def _run(
    truth: Truth, at: tuple[int, int, int], engine: EngineModel, times: tuple[StepTimes, HostTimes]
) -> tuple[float, tuple[float, float, float]]:
    """Performance and figures of one run; 0 and NaN where the engine refuses a request."""
    row, _, repeat = at
    rounds = []
    for number in range(int(truth.rounds[at])):
        seed = truth.plan.seed_of(truth.sent[row], repeat, number)
        requests = sent_requests(truth.sent[row], seed)
        result = simulate(engine, times[0], requests, host=times[1], seed=seed)
        by_request = result.ttft_s, result.tpot_s(requests.output_tokens), requests.output_tokens
        rounds.append((by_request[0].mean(), by_request[1].mean(), by_request[2].sum(), result.makespan_s))
    ttft_s, tpot_s, tokens, seconds = np.mean(rounds, axis=0).tolist()
    if np.isnan(ttft_s):
        return 0.0, (np.nan, np.nan, np.nan)
    rate = tokens / seconds
    return (1.0 / seconds if truth.kind is TrafficKind.BATCH else rate), (ttft_s, tpot_s, rate)


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
    kept = [_without(truth, without) for truth in truths]

    def scaled(logs: FloatArray) -> Efficiency:
        values = {name: getattr(start, name) * float(np.exp(log)) for name, log in zip(_FITTED, logs, strict=True)}
        return replace(start, **{name: min(1.0, v) if name in _SHARES else v for name, v in values.items()})

    def errors(logs: FloatArray) -> FloatArray:
        predictor = AnalyticalPredictor(scaled(logs))
        found = []
        for truth in kept:
            figures = predicted(truth, predictor)[1]
            with np.errstate(divide="ignore", invalid="ignore"):
                apart = np.log(figures / truth.figures).ravel()
            found.append(np.where(np.isfinite(apart), apart, 0.0))
        return np.concatenate([*found, logs / _PRIOR_LOG_SD])

    at = least_squares(
        errors, np.zeros(len(_FITTED)), loss="soft_l1", f_scale=_ROBUST_LOG, max_nfev=_MOST_EVALUATIONS, diff_step=0.05
    )
    return scaled(at.x)


def _without(truth: Truth, model: str) -> Truth:
    """The same with no question about that model: what is not asked is not known, and no error."""
    asked = {at: question for at, question in truth.questions.items() if truth.tasks[at[0]].model != model}
    return replace(truth, questions=asked)


def _empty(truth: Truth) -> Guess:
    shape = truth.performance.shape
    return np.full(shape, np.nan), np.full((*shape, 3), np.nan)
