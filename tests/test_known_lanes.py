"""What is known of lanes is worked out once for all loads of a kind, and the same as if it were worked out anew."""

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import metainf.predictors.known_lanes as known_lanes
from metainf.predictors.contract import Predictions, Question, ReplicaSpec
from metainf.predictors.known_lanes import KnownLanes
from metainf.predictors.lanes import LaneSet
from metainf.predictors.trained import TrainedPredictor
from metainf.workload import BatchLoad, ConcurrencyLoad, Load, RateLoad, SharedPrefix, TokenLengths, Traffic
from test_predictor_contract import spec
from trained_models import predictor

SPECS = [
    spec("meta-llama/Llama-3.1-8B-Instruct", "H100-SXM-80GB"),
    spec("Qwen/Qwen3-30B-A3B", "H200-SXM-141GB"),
    spec("meta-llama/Llama-3.1-8B-Instruct", "L40S-PCIe-48GB"),
    spec("meta-llama/Llama-3.1-8B-Instruct", "MI300X-OAM-192GB"),
]
"""The last is of a vendor that was not trained on."""
TRAFFIC = Traffic(RateLoad(1.0), TokenLengths(900), TokenLengths(150))

loads: st.SearchStrategy[Load] = st.one_of(
    st.floats(1e-3, 1e3).map(RateLoad),
    st.integers(1, 5000).map(ConcurrencyLoad),
    st.integers(1, 5000).map(lambda requests: BatchLoad(requests, 600.0)),
)
traffics = st.builds(
    Traffic,
    loads,
    st.just(TokenLengths(900)),
    st.just(TokenLengths(150)),
    st.sampled_from([None, SharedPrefix(tokens=300, ratio=0.5, distinct=4)]),
)
batches = st.lists(
    st.tuples(traffics, st.lists(st.tuples(st.sampled_from(SPECS), st.integers(1, 9)), min_size=1, max_size=6)),
    min_size=1,
    max_size=5,
)


class Watched:
    """A predictor, and which replicas' lanes it worked out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.predictor = predictor()
        self.worked_out: list[ReplicaSpec] = []
        own = self.predictor._knowledge._worked_out

        def counted(questions: Sequence[Question], lanes: LaneSet) -> KnownLanes:
            self.worked_out += list({id(q.replica): q.replica for q in questions}.values())
            return own(questions, lanes)

        monkeypatch.setattr(self.predictor._knowledge, "_worked_out", counted)

    def ask(self, traffic: Traffic, specs: Sequence[ReplicaSpec], replicas: int = 1) -> list[ReplicaSpec]:
        """What is worked out anew for questions about these."""
        self.worked_out.clear()
        self.predictor.predict([Question(each, traffic, replicas) for each in specs])
        return list(self.worked_out)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def assert_same(one: Predictions, other: Predictions, rows: slice = slice(None)) -> None:
    """Equal but for the last bits: numpy's functions round some elements by where they stand in an array."""
    for field in fields(Predictions):
        here, there = getattr(one, field.name)[rows], getattr(other, field.name)
        np.testing.assert_allclose(here, there, rtol=1e-12, err_msg=field.name)


@pytest.fixture(scope="module")
def long_running() -> TrainedPredictor:
    return predictor()


@given(batches)
@hypothesis_settings(max_examples=40, deadline=None)
def test_answers_are_those_of_a_predictor_that_was_never_asked_before(
    long_running: TrainedPredictor, asked: list[tuple[Traffic, list[tuple[ReplicaSpec, int]]]]
) -> None:
    for traffic, of in asked:
        questions = [Question(replica, traffic, count) for replica, count in of]
        assert_same(long_running.predict(questions), predictor().predict(questions))


def test_questions_of_several_traffics_in_one_batch_are_answered_as_each_alone(long_running: TrainedPredictor) -> None:
    traffics = [TRAFFIC, replace(TRAFFIC, load=ConcurrencyLoad(8)), replace(TRAFFIC, load=BatchLoad(500, 900.0))]
    questions = [Question(each, traffic) for traffic in traffics for each in SPECS]
    together = long_running.predict(questions)
    for place, question in enumerate(questions):
        assert_same(together, long_running.predict([question]), slice(place, place + 1))


def test_another_rate_or_number_of_clients_or_replicas_is_worked_out_of_what_is_known(watched: Watched) -> None:
    assert watched.ask(TRAFFIC, SPECS) == SPECS
    assert watched.ask(replace(TRAFFIC, load=RateLoad(7.0)), SPECS[::-1], replicas=5) == []
    clients = replace(TRAFFIC, load=ConcurrencyLoad(1))
    assert watched.ask(clients, SPECS) == SPECS
    assert watched.ask(replace(clients, load=ConcurrencyLoad(99)), SPECS) == []


def test_a_replica_that_comes_later_is_worked_out_alone(watched: Watched) -> None:
    watched.ask(TRAFFIC, SPECS[:2])
    assert watched.ask(TRAFFIC, SPECS) == SPECS[2:]


@pytest.mark.parametrize(
    "changed",
    [
        {"burstiness": 1.5},
        {"input_tokens": TokenLengths(901)},
        {"shared_prefix": SharedPrefix(tokens=300, ratio=0.5, distinct=4)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_traffic_that_differs_in_more_than_its_load_is_of_another_kind(
    watched: Watched, changed: dict[str, object]
) -> None:
    watched.ask(TRAFFIC, SPECS)
    assert watched.ask(replace(TRAFFIC, **changed), SPECS) == SPECS  # type: ignore[arg-type]


def test_batches_are_worked_out_each_time(watched: Watched) -> None:
    batch = replace(TRAFFIC, load=BatchLoad(100, 600.0))
    assert watched.ask(batch, SPECS) == SPECS
    assert watched.ask(batch, SPECS) == SPECS


def test_of_many_kinds_the_one_not_asked_about_for_longest_is_forgotten(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_lanes, "_MOST_TRAFFICS", 2)
    first, second, third = (replace(TRAFFIC, burstiness=value) for value in (1.0, 2.0, 3.0))
    watched.ask(first, SPECS)
    watched.ask(second, SPECS)
    watched.ask(first, SPECS)
    watched.ask(third, SPECS)
    assert watched.ask(first, SPECS) == []
    assert watched.ask(second, SPECS) == SPECS
