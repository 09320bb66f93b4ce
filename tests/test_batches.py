"""How much of a batch's makespan is luck, held against the simulator under many draws of lengths."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metainf.batches import batch_luck_log_sd
from metainf.corpus.replicas import replica_of
from metainf.corpus.runs import Run
from metainf.corpus.task import Task
from metainf.corpus.worlds import RooflineWorld
from metainf.layouts import Layout
from metainf.meta_features.questions import QuestionFeatures
from metainf.methods import method
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.contract import Question, ReplicaSpec
from metainf.predictors.inputs import lane_inputs
from metainf.simulator.builder import engine_model
from metainf.workload import BatchLoad, TokenLengths, Traffic

DEFAULT = method("default")


def task_of(requests: int, inputs: TokenLengths, outputs: TokenLengths) -> Task:
    return Task("Qwen/Qwen3-8B", "H100-SXM-80GB", Layout(), Traffic(BatchLoad(requests, 600.0), inputs, outputs))


def question_of(task: Task) -> Question:
    replica = replica_of(task, DEFAULT)
    assert isinstance(replica, ReplicaSpec)
    return Question(replica, task.traffic)


def luck_of(task: Task) -> float:
    questions = [question_of(task)]
    features = QuestionFeatures()
    lanes = features.lanes(questions)
    inputs = lane_inputs(features, questions, lanes)
    traffic, requests = lanes.traffic, np.asarray(lanes.traffic.requests)
    log_sd = np.asarray(traffic.input_log_sd), np.asarray(traffic.output_log_sd)
    return float(batch_luck_log_sd(lanes.lane, requests, inputs.capacity, log_sd, requests)[0])


def simulated_log_sd(task: Task, draws: int) -> float:
    """Over draws of lengths, of one replica whose times are those of the datasheet."""
    replica = question_of(task).replica
    steps, host = RooflineWorld().times(replica, 0) or (None, None)
    assert steps is not None
    assert host is not None
    engine = engine_model(replica)
    load = task.traffic.load
    assert isinstance(load, BatchLoad)
    runs = (Run(task, DEFAULT, replica, engine, steps, host, seed, False) for seed in range(draws))
    makespans = [each.batch(load.requests).makespan_s for each in runs]
    return float(np.std(np.log(makespans)))


@pytest.mark.parametrize(
    ("requests", "inputs", "outputs"),
    [
        pytest.param(1, TokenLengths(200.0), TokenLengths(200.0, 600.0), id="one answer"),
        pytest.param(4, TokenLengths(200.0), TokenLengths(200.0, 600.0), id="the longest of four"),
        pytest.param(64, TokenLengths(200.0), TokenLengths(200.0, 600.0), id="the longest of many"),
        pytest.param(64, TokenLengths(200.0), TokenLengths(200.0, 300.0), id="of lengths that differ less"),
        pytest.param(4, TokenLengths(4000.0, 12000.0), TokenLengths(20.0), id="a few prompts"),
        pytest.param(1500, TokenLengths(200.0), TokenLengths(100.0, 200.0), id="the sum of very many"),
    ],
)
def test_luck_is_what_simulated_makespans_differ_by(requests: int, inputs: TokenLengths, outputs: TokenLengths) -> None:
    task = task_of(requests, inputs, outputs)
    assert luck_of(task) == pytest.approx(simulated_log_sd(task, 60), rel=0.3, abs=0.01)


def test_where_all_lengths_are_alike_nothing_is_luck() -> None:
    assert luck_of(task_of(64, TokenLengths(500.0), TokenLengths(100.0))) == 0.0


@given(few=st.integers(1, 2000), more=st.integers(1, 2000))
def test_more_requests_leave_less_to_luck(few: int, more: int) -> None:
    lengths = TokenLengths(300.0, 900.0), TokenLengths(100.0, 300.0)
    assert luck_of(task_of(few + more, *lengths)) <= 1.02 * luck_of(task_of(few, *lengths))


def test_a_batch_of_few_uneven_requests_is_less_sure_than_an_even_one() -> None:
    uneven, even = (
        task_of(4, TokenLengths(200.0), outputs) for outputs in (TokenLengths(200.0, 600.0), TokenLengths(200.0))
    )
    found = AnalyticalPredictor().predict([question_of(uneven), question_of(even)])
    added = np.sqrt(found.throughput_log_sd[0] ** 2 - found.throughput_log_sd[1] ** 2)
    assert added == pytest.approx(luck_of(uneven), rel=0.01)
    # What is told of latencies is of one request, and no more or less sure.
    np.testing.assert_array_equal(found.latency_log_sd[0], found.latency_log_sd[1])
