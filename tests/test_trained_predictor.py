"""The trained predictor: the contract, its laws, what it learnt, and how it fades where it knows nothing."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from distorted_corpus import corpus, slower
from metainf.corpus.replicas import Infeasible, replica_of
from metainf.corpus.task import TrafficKind
from metainf.evaluation.groups import accelerator_group
from metainf.meta_features.questions import QuestionFeatures
from metainf.methods import effective_settings, method, portfolio
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.base_answers import CAPACITY, KNOTS, TARGETS
from metainf.predictors.contract import Predictions, Question, ReplicaSpec
from metainf.predictors.corrections import KINDS, SEEN, UNSEEN, width_factors
from metainf.predictors.default import default_predictor
from metainf.predictors.familiarity import FAR, GROUPS, Familiarity, fading
from metainf.predictors.inputs import INPUTS, lane_inputs
from metainf.predictors.spread import SPECULATION_LOG_SD
from metainf.predictors.step_factors import PARTS, StepFactors
from metainf.predictors.trained import TrainedPredictor
from metainf.predictors.trees import ObliviousTrees
from metainf.workload import BatchLoad, ConcurrencyLoad, Load, RateLoad, TokenLengths, Traffic
from test_predictor_contract import check_predictor, spec
from trained_models import predictor

MEAN, P50, P95, P99 = range(4)
TTFT, TPOT, E2E = range(3)
LLAMA_8B, LLAMA_70B = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-70B-Instruct"
SPECS = [
    spec(LLAMA_8B, "H100-SXM-80GB"),
    spec(LLAMA_70B, "A100-SXM-80GB", 4),
    spec("Qwen/Qwen3-30B-A3B", "H200-SXM-141GB"),
    spec(LLAMA_8B, "L40S-PCIe-48GB"),
]
specs = st.sampled_from(SPECS)
lengths = st.floats(1, 4000)
LENGTHS = TokenLengths(1000), TokenLengths(200)
NVIDIA_ALONE = StepFactors(("H100-SXM-80GB",), np.zeros((1, len(PARTS))), np.full(len(PARTS), 0.5))


@pytest.fixture(scope="module")
def known() -> TrainedPredictor:
    return predictor()


def ask(
    predictor: TrainedPredictor, replica: ReplicaSpec, load: Load, replicas: int = 1, **more: object
) -> Predictions:
    given = {"input_tokens": TokenLengths(1000), "output_tokens": TokenLengths(200), **more}
    return predictor.predict([Question(replica, Traffic(load, **given), replicas)])  # type: ignore[arg-type]


def with_residuals(predictor: TrainedPredictor, residual: Callable[[int, int], float]) -> TrainedPredictor:
    """The predictor with one tree that says `residual(knot, target)`, everywhere familiar."""
    splits = KNOTS - 1
    leaves = np.zeros((1, 1 << splits, len(TARGETS)), dtype=np.float32)
    for knot in range(KNOTS):
        leaves[0, (1 << knot) - 1] = [residual(knot, target) for target in range(len(TARGETS))]
    trees = ObliviousTrees(
        feature=np.full((1, splits), len(INPUTS), dtype=np.int16),
        border=np.arange(splits, dtype=np.float32)[None] + 0.5,
        leaves=leaves,
        bias=np.zeros(len(TARGETS)),
        knots=KNOTS,
        features=len(INPUTS),
    )
    near = replace(predictor.model.familiarity, thresholds=np.full(len(GROUPS), 1e9))
    return TrainedPredictor(replace(predictor.model, trees=trees, familiarity=near), "sha256:0")


def test_keeps_the_contract() -> None:
    check_predictor(predictor)


def test_knows_how_much_slower_truth_is_than_the_analytical_predictor(known: TrainedPredictor) -> None:
    table, tasks = corpus()
    analytical = AnalyticalPredictor()
    errors, before = [], []
    for task in tasks:
        replica = replica_of(task, portfolio()[0])
        if task.kind is not TrafficKind.RATE or isinstance(replica, Infeasible):
            continue
        question = [Question(replica, task.traffic)]
        plain = analytical.predict(question).capacity_requests_per_second[0]
        learnt = known.predict(question).capacity_requests_per_second[0]
        truth = plain / slower(task.accelerator)
        errors.append(abs(np.log(learnt / truth)))
        before.append(abs(np.log(plain / truth)))
    assert np.median(errors) < 0.4 * np.median(before)
    assert table.num_rows > 500


@given(
    replica=specs,
    rate=st.floats(0.01, 60),
    factor=st.floats(1.0, 5.0),
    inputs=lengths,
    outputs=lengths,
    slopes=st.lists(st.floats(-1, 1), min_size=len(TARGETS), max_size=len(TARGETS)),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_more_load_is_never_faster_whatever_was_learnt(
    replica: ReplicaSpec, rate: float, factor: float, inputs: float, outputs: float, slopes: list[float]
) -> None:
    bent = with_residuals(predictor(), lambda knot, target: slopes[target] * (knot if target != CAPACITY else 1))
    wide = {"input_tokens": TokenLengths(inputs, 2 * inputs), "output_tokens": TokenLengths(outputs, 2 * outputs)}
    low, high = (ask(bent, replica, RateLoad(r), **wide) for r in (rate, rate * factor))
    assert (high.latency_s >= low.latency_s * (1 - 1e-6)).all()
    assert high.capacity_requests_per_second[0] == pytest.approx(low.capacity_requests_per_second[0])


@given(clients=st.integers(1, 3000), more=st.integers(0, 3000), replica=specs, slope=st.floats(-1, 1))
@hypothesis_settings(max_examples=40, deadline=None)
def test_more_clients_wait_longer_and_get_no_less_done(
    clients: int, more: int, replica: ReplicaSpec, slope: float
) -> None:
    bent = with_residuals(predictor(), lambda knot, target: slope * knot)
    low, high = (ask(bent, replica, ConcurrencyLoad(c)) for c in (clients, clients + more))
    assert high.latency_s[0, E2E, MEAN] >= low.latency_s[0, E2E, MEAN] * (1 - 1e-3)
    assert high.requests_per_second[0] >= low.requests_per_second[0] * (1 - 1e-6)
    assert np.isfinite(high.latency_s).all()


@given(replica=specs, rate=st.floats(0.01, 200), inputs=lengths, outputs=lengths)
@hypothesis_settings(max_examples=40, deadline=None)
def test_latency_is_infinite_only_above_the_capacity(
    replica: ReplicaSpec, rate: float, inputs: float, outputs: float
) -> None:
    given = {"input_tokens": TokenLengths(inputs), "output_tokens": TokenLengths(outputs)}
    found = ask(predictor(), replica, RateLoad(rate), **given)
    fits = rate < found.capacity_requests_per_second[0]
    assert np.isfinite(found.latency_s).all() == fits
    assert (found.utilization[0] < 1) == fits
    assert found.requests_per_second[0] == pytest.approx(min(rate, found.capacity_requests_per_second[0]))


@pytest.mark.parametrize(
    "load",
    [
        pytest.param(RateLoad(2.0), id="rate"),
        pytest.param(ConcurrencyLoad(20), id="clients"),
        pytest.param(BatchLoad(300, 600.0), id="batch"),
    ],
)
@pytest.mark.parametrize("learnt", [False, True], ids=["steps as expected", "steps as learnt"])
def test_without_residuals_it_is_the_analytical_predictor(known: TrainedPredictor, load: Load, learnt: bool) -> None:
    factors = known.model.factors if learnt else StepFactors.none()
    nothing = with_residuals(known, lambda knot, target: 0.0)
    nothing = TrainedPredictor(replace(nothing.model, factors=factors), "sha256:0")
    plain = AnalyticalPredictor(factors=factors)
    for replica in SPECS:
        question = [Question(replica, Traffic(load, TokenLengths(1000, 2000), TokenLengths(200, 500)), 2)]
        found, expected = nothing.predict(question), plain.predict(question)
        np.testing.assert_allclose(found.latency_s, expected.latency_s, rtol=0.06)
        np.testing.assert_allclose(found.requests_per_second, expected.requests_per_second, rtol=0.02)
        np.testing.assert_allclose(found.makespan_s, expected.makespan_s, rtol=0.02)
        capacity = found.capacity_requests_per_second / expected.capacity_requests_per_second
        np.testing.assert_allclose(capacity, 1.0, atol=0.02)


def test_a_slower_capacity_moves_latencies_to_the_same_utilization(known: TrainedPredictor) -> None:
    plain = with_residuals(known, lambda knot, target: 0.0)
    half = with_residuals(known, lambda knot, target: np.log(0.5) if target == CAPACITY else 0.0)
    full, found = (ask(each, SPECS[0], RateLoad(rate)).latency_s for each, rate in ((plain, 8.0), (half, 4.0)))
    np.testing.assert_allclose(found, full, rtol=1e-6)  # leaves are in single precision


def test_few_clients_on_many_ranks_share_nothing_twice(known: TrainedPredictor) -> None:
    plain = with_residuals(known, lambda knot, target: 0.0)
    one = ask(plain, SPECS[0], ConcurrencyLoad(1), replicas=8)
    assert one.requests_per_second[0] == pytest.approx(1 / one.latency_s[0, E2E, MEAN], rel=0.05)


def test_says_what_it_has_never_seen_and_answers_analytically_far_from_it(known: TrainedPredictor) -> None:
    near = replace(known.model.familiarity, thresholds=known.model.familiarity.thresholds / 1e6)
    far = TrainedPredictor(replace(known.model, familiarity=near), "sha256:0")
    other = Traffic(RateLoad(2.0), TokenLengths(777, 1501), TokenLengths(123, 345))
    question = [Question(replica, other) for replica in SPECS]
    found, expected = far.predict(question), AnalyticalPredictor(factors=known.model.factors).predict(question)
    assert found.out_of_distribution.all()
    np.testing.assert_array_equal(found.latency_s, expected.latency_s)
    np.testing.assert_array_equal(found.latency_log_sd, expected.latency_log_sd)
    np.testing.assert_array_equal(found.caution, max(1.0, known.model.caution[SEEN, KINDS.index("rate")]))


@pytest.mark.parametrize(
    ("load", "kind"),
    [
        pytest.param(RateLoad(1.0), "rate", id="a rate"),
        pytest.param(ConcurrencyLoad(8), "concurrency", id="clients"),
        pytest.param(BatchLoad(100, 600.0), "batch", id="a batch"),
    ],
)
def test_caution_is_of_the_kind_of_traffic_and_of_whether_the_generation_was_seen(
    known: TrainedPredictor, load: Load, kind: str
) -> None:
    told = np.array([[0.6, 0.7, 0.8], [1.6, 1.7, 1.8]])
    model = replace(with_residuals(known, lambda knot, target: 0.0).model, caution=told)
    careful = TrainedPredictor(replace(model, generations=frozenset({"Hopper HBM"})), "sha256:0")
    traffic = Traffic(load, TokenLengths(1000), TokenLengths(200))
    questions = [Question(SPECS[place], traffic) for place in (0, 3, 2)]  # an H100, an L40S and an H200
    place = KINDS.index(kind)
    expected = [told[SEEN, place], told[UNSEEN, place], told[SEEN, place]]
    np.testing.assert_array_equal(careful.predict(questions).caution, expected)
    narrow = replace(model.familiarity, thresholds=known.model.familiarity.thresholds / 1e6)
    far = TrainedPredictor(replace(careful.model, familiarity=narrow), "sha256:0").predict(questions)
    np.testing.assert_array_equal(far.caution, np.maximum(expected, 1.0))


def test_widths_by_features_multiply_what_was_learnt_and_nothing_else(known: TrainedPredictor) -> None:
    plain = with_residuals(known, lambda knot, target: 0.0)
    even = replace(plain.model, log_sd=np.full_like(plain.model.log_sd, 0.2), growth=np.zeros(2), width_trees=None)
    questions = [Question(each, Traffic(ConcurrencyLoad(8), *LENGTHS)) for each in SPECS]
    made = lane_inputs(QuestionFeatures(), questions)
    rows = made.rows[made.lanes.of]
    column = int(np.argmax(rows.std(axis=0)))
    border = float(rows[:, column].min() + rows[:, column].max()) / 2.0
    trees = ObliviousTrees(
        feature=np.array([[column]], dtype=np.int16),
        border=np.array([[border]], dtype=np.float32),
        leaves=np.log(np.array([[[0.5] * len(TARGETS), [9.0] * len(TARGETS)]])).astype(np.float32),
        bias=np.zeros(len(TARGETS)),
        knots=1,
        features=len(INPUTS),
    )
    factors = width_factors(trees, rows)
    wide = rows[:, column] > border
    assert 0 < wide.sum() < len(rows)
    np.testing.assert_allclose(factors, np.where(wide, 3.0, 0.5)[:, None] * np.ones(len(TARGETS)), rtol=1e-6)
    assert (width_factors(None, rows) == 1.0).all()
    found = TrainedPredictor(replace(even, width_trees=trees), "sha256:0").predict(questions)
    expected = TrainedPredictor(even, "sha256:0").predict(questions)
    np.testing.assert_array_equal(found.latency_s, expected.latency_s)
    np.testing.assert_allclose(found.capacity_log_sd, expected.capacity_log_sd * factors[:, 0], rtol=1e-6)
    np.testing.assert_allclose(found.latency_log_sd, expected.latency_log_sd * factors[:, :1, None], rtol=1e-6)


def test_an_unknown_generation_is_outside_and_less_sure(known: TrainedPredictor) -> None:
    strict = TrainedPredictor(replace(known.model, generations=frozenset({"Hopper HBM"})), "sha256:0")
    sure = replace(known.model.familiarity, thresholds=np.full(len(GROUPS), 1e9))
    strict = TrainedPredictor(replace(strict.model, familiarity=sure), "sha256:0")
    seen, unseen = ask(strict, SPECS[0], RateLoad(1.0)), ask(strict, SPECS[3], RateLoad(1.0))
    assert not seen.out_of_distribution[0]
    assert unseen.out_of_distribution[0]
    assert (strict.model.log_sd[1] >= strict.model.log_sd[0]).all()


def under(name: str) -> ReplicaSpec:
    """The first replica under a method."""
    plain = SPECS[0]
    settings = effective_settings(
        replace(method(name).settings, max_model_len=8192),
        architecture=plain.architecture,
        accelerator=plain.accelerator,
        layout=plain.layout,
    )
    return replace(plain, settings=settings)


def test_what_drafts_are_worth_stays_as_unsure_as_the_text(known: TrainedPredictor) -> None:
    plain = with_residuals(known, lambda knot, target: 0.0)
    even = replace(plain.model, log_sd=np.full_like(plain.model.log_sd, 0.2), growth=np.zeros(2), width_trees=None)
    sure = TrainedPredictor(even, "sha256:0")
    for load in (ConcurrencyLoad(20), BatchLoad(300, 600.0)):
        asked = [
            Question(under(name), Traffic(load, TokenLengths(1000), TokenLengths(200))) for name in ("default", "ngram")
        ]
        found = sure.predict(asked)
        assert not found.out_of_distribution.any()
        wider = np.hypot(0.2, SPECULATION_LOG_SD)
        np.testing.assert_allclose(found.latency_log_sd[0], 0.2)
        np.testing.assert_allclose(found.latency_log_sd[1], wider)
        np.testing.assert_allclose(found.throughput_log_sd, [0.2, wider])
        np.testing.assert_allclose(found.capacity_log_sd, [0.2, wider])


@pytest.mark.parametrize("accelerator", ["Xeon-Sapphire-Rapids", "MI300X-OAM-192GB"])
def test_cpus_and_other_vendors_are_left_to_the_analytical_predictor(known: TrainedPredictor, accelerator: str) -> None:
    bent = with_residuals(known, lambda knot, target: 1.0)  # everywhere familiar, and everywhere wrong
    generations, careful = bent.model.generations | {accelerator_group(accelerator)}, np.full((2, len(KINDS)), 3.0)
    model = replace(bent.model, generations=generations, caution=careful, factors=NVIDIA_ALONE)
    every = TrainedPredictor(model, "sha256:0")
    load = Traffic(RateLoad(0.01), TokenLengths(300), TokenLengths(50))
    device = spec("Qwen/Qwen2.5-0.5B-Instruct", accelerator)
    for asked in ([Question(device, load)], [Question(SPECS[0], load), Question(device, load)]):
        found, expected = every.predict(asked), AnalyticalPredictor().predict(asked)
        np.testing.assert_array_equal(found.latency_s[-1], expected.latency_s[-1])
        np.testing.assert_array_equal(found.latency_log_sd[-1], expected.latency_log_sd[-1])
        assert found.out_of_distribution[-1]
        assert found.caution[-1] == 1.0
    assert found.caution[0] == 3.0
    assert not np.allclose(found.latency_s[0], expected.latency_s[0])


@pytest.mark.parametrize(
    ("distance", "share"),
    [
        pytest.param(0.0, 0.0, id="among the training data"),
        pytest.param(1.0, 0.0, id="at the threshold"),
        pytest.param((1.0 + FAR) / 2.0, 0.5, id="halfway"),
        pytest.param(FAR, 1.0, id="far"),
        pytest.param(1e9, 1.0, id="anywhere else"),
    ],
)
def test_fades_between_the_threshold_and_far(distance: float, share: float) -> None:
    assert fading(np.array([distance]))[0] == pytest.approx(share)


def test_what_was_trained_on_is_at_no_distance() -> None:
    rows = np.random.default_rng(0).normal(size=(50, len(INPUTS)))
    known = Familiarity.of(rows, most=100, seed=0)
    np.testing.assert_allclose(known.distances(rows), 0.0, atol=1e-5)
    assert (known.distances(rows + 5.0) > 1.0).all()
    repeated = np.repeat(rows[:3], 40, axis=0) + 1.0
    np.testing.assert_allclose(known.distances(repeated), np.repeat(known.distances(rows[:3] + 1.0), 40, axis=0))


@pytest.mark.parametrize(
    "highest", [pytest.param(4, id="trees that ask about the load"), pytest.param(3, id="none asks about the load")]
)
def test_trees_say_what_their_leaves_say(highest: int) -> None:
    draw = np.random.default_rng(1)
    feature = draw.integers(-1, highest + 1, size=(30, 4)).astype(np.int16)  # 4 is the load
    trees = ObliviousTrees(
        feature=feature,
        border=draw.normal(size=(30, 4)).astype(np.float32),
        leaves=draw.normal(size=(30, 16, 3)).astype(np.float32),
        bias=np.array([1.0, 2.0, 3.0]),
        knots=4,
        features=4,
    )
    rows = draw.normal(size=(300, 4))
    found = trees.at_knots(rows)
    for row in (0, 7, 299):
        for knot in range(4):
            values = np.append(rows[row], knot).astype(np.float32)
            expected = trees.bias.copy()
            for tree in range(30):
                bits = [f >= 0 and values[f] > b for f, b in zip(feature[tree], trees.border[tree], strict=True)]
                expected += trees.leaves[tree, sum(1 << place for place, bit in enumerate(bits) if bit)]
            np.testing.assert_allclose(found[row, knot], expected, atol=1e-4)


def test_inputs_do_not_depend_on_the_load() -> None:
    features = QuestionFeatures()
    one, other = (
        lane_inputs(features, [Question(SPECS[0], Traffic(RateLoad(rate), TokenLengths(900), TokenLengths(90)))]).rows
        for rate in (0.1, 900.0)
    )
    np.testing.assert_array_equal(one, other)
    assert one.shape == (1, len(INPUTS))


def waiting(replica: ReplicaSpec) -> ReplicaSpec:
    """The same with an engine that waits for each step before it schedules the next one."""
    return replace(replica, settings=replace(replica.settings, asynchronous_scheduling=False))


def test_an_engine_that_waits_and_drafts_nothing_has_the_inputs_of_the_same_one_that_does_not() -> None:
    """Of all that was learnt from only drafts from the text wait."""
    traffic = Traffic(BatchLoad(500, 3600.0), *LENGTHS)
    features = QuestionFeatures()
    asked = [Question(each, traffic) for spec in SPECS[:2] for each in (waiting(spec), spec)]
    made = lane_inputs(features, asked)
    row = made.rows[made.lanes.of]
    np.testing.assert_array_equal(row[[0, 2]], row[[1, 3]])
    capacity = made.capacity[made.lanes.of]
    assert (capacity[[0, 2]] < capacity[[1, 3]]).all(), "what waits take is the physics' to say"
    ngram = method("ngram").settings
    drafting = [
        replace(spec, settings=replace(spec.settings, speculation=ngram.speculation, asynchronous_scheduling=on))
        for spec in SPECS[:1]
        for on in (False, True)
    ]
    made = lane_inputs(features, [Question(each, traffic) for each in drafting])
    assert (made.rows[made.lanes.of[0]] != made.rows[made.lanes.of[1]]).any(), "these were learnt from"


@pytest.mark.parametrize("load", [RateLoad(2.0), ConcurrencyLoad(64), BatchLoad(1000, 3600.0)], ids=str)
def test_what_ships_has_no_engine_do_more_by_waiting(load: Load) -> None:
    shipped, why = default_predictor()
    assert why is None
    for replica in SPECS:
        one, other = (ask(shipped, each, load) for each in (waiting(replica), replica))  # type: ignore[arg-type]
        assert one.capacity_requests_per_second[0] < other.capacity_requests_per_second[0]
        assert one.output_tokens_per_second[0] <= other.output_tokens_per_second[0]
        assert (one.latency_s[0, TPOT] >= other.latency_s[0, TPOT]).all()
