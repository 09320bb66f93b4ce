import hashlib
import itertools
import math
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from meta_tasks import ACCELERATORS, task, tasks
from metainf.corpus import traffic as corpus_traffic
from metainf.corpus.replicas import replica_of
from metainf.corpus.task import Task, TrafficKind
from metainf.errors import InvalidWorkloadError
from metainf.layouts import Layout
from metainf.meta_features.answers import normal_share
from metainf.meta_features.methods import METHOD_FEATURES, method_features
from metainf.meta_features.pairs import PAIR_FEATURES
from metainf.meta_features.questions import QUESTION_FEATURES, QuestionFeatures, question_features
from metainf.meta_features.schema import FEATURE_SCHEMA
from metainf.meta_features.tasks import TASK_FEATURES, task_features, task_table
from metainf.methods import method, portfolio
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.contract import LATENCY_METRICS, Question, ReplicaSpec
from metainf.predictors.inputs import INPUTS
from metainf.selectors.contract import FloatArray, TaskTable
from metainf.selectors.targets import EXPECTED_PAIR, LOST, analytical_shortfalls
from metainf.speculation import UNKNOWN_MIXTURE, tokens_per_step
from metainf.workload import (
    ConcurrencyLoad,
    LatencyMetric,
    RateLoad,
    Repetitiveness,
    SharedPrefix,
    Slo,
    SloBound,
    Statistic,
    TokenLengths,
    Traffic,
)

KINDS = [pytest.param(kind, id=str(kind)) for kind in TrafficKind]
GROUPS = [
    pytest.param(group, id=name)
    for name, group in (
        ("task", TASK_FEATURES),
        ("question", QUESTION_FEATURES),
        ("pair", PAIR_FEATURES),
        ("method", METHOD_FEATURES),
    )
]
_TABLES: dict[TrafficKind, TaskTable] = {}


def table(kind: TrafficKind) -> TaskTable:
    if kind not in _TABLES:
        _TABLES[kind] = task_table(tasks(kind))
    return _TABLES[kind]


def question(asked: Task, name: str = "default") -> Question:
    replica = replica_of(asked, method(name))
    assert isinstance(replica, ReplicaSpec)
    return Question(replica, asked.traffic)


def pair_feature(found: TaskTable, name: str) -> FloatArray:
    """A column of the pair features, shape (n, m)."""
    column: FloatArray = found.pair_features[:, :, found.pair_feature_names.index(name)]
    return column


def feature(asked: Task, name: str) -> float:
    return float(task_features([asked])[0, [f.name for f in TASK_FEATURES].index(name)])


@pytest.mark.parametrize("group", GROUPS)
def test_every_feature_has_a_name_of_its_own_a_unit_and_a_sentence(group: tuple) -> None:  # type: ignore[type-arg]
    names = [f.name for f in group]
    assert len(set(names)) == len(names)
    for f in group:
        assert f.unit
        assert f.sentence.endswith(".")
        assert f.name.replace("_", "").isalnum() and f.name == f.name.lower()


def test_the_schema_is_raised_with_every_change_of_names() -> None:
    # A trained artifact is told from another schema by the number alone: raise it, then put the new digest here.
    groups = (TASK_FEATURES, QUESTION_FEATURES, PAIR_FEATURES, METHOD_FEATURES)
    names = repr([[(f.name, f.unit) for f in group] for group in groups])
    assert (FEATURE_SCHEMA, hashlib.sha256(names.encode()).hexdigest()[:12]) == (4, "1675c0213b5a")


def test_run_time_needs_nothing_of_training() -> None:
    heavy = "joblib lightgbm matplotlib numba pandas pyarrow scipy sklearn torch sentence_transformers wordllama"
    modules = "metainf.meta_features.questions, metainf.meta_features.tasks, metainf.meta_features.observed"
    loaded = f"print([name for name in '{heavy}'.split() if name in sys.modules])"
    code = f"import sys, {modules}, metainf.embeddings.embeddings\n{loaded}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_thousand_questions_take_a_few_milliseconds_once_their_replicas_are_known() -> None:
    known = QuestionFeatures()
    methods = [m.name for m in portfolio() if isinstance(replica_of(task(), m), ReplicaSpec)]
    loads = [replace(task().traffic, load=RateLoad(0.1 + 0.01 * step)) for step in range(1 + 1000 // len(methods))]
    asked = [replace(question(task(), name), traffic=load) for load in loads for name in methods][:1000]
    known.transform(asked)
    spent = []
    for _ in range(7):
        started = time.process_time()
        known.transform(asked)
        spent.append(time.process_time() - started)
    assert min(spent) < 0.03  # some 5 ms on an idle core; the bound leaves room for a busy one


def test_no_feature_is_an_id() -> None:
    # Called otherwise, the same model on the same silicon has the same features.
    asked = question(task())
    replica = asked.replica
    renamed = replace(
        replica,
        architecture=replace(replica.architecture, name="somebody/else", architecture="Other", model_type="other"),
        accelerator=replace(replica.accelerator, name="X1", family="X", aliases=(), family_names=()),
    )
    other = Question(renamed, replace(asked.traffic, description="Something else."))
    assert np.array_equal(question_features([asked]), question_features([other]))
    tail = (f.name for f in (*TASK_FEATURES, *PAIR_FEATURES, *METHOD_FEATURES))
    assert not {name for name in tail if name.split("_")[-1] in {"id", "name", "index", "hash"}}


def test_no_feature_is_constant_over_varied_tasks() -> None:
    features = np.concatenate([table(kind).features[table(kind).feasible.any(axis=1)] for kind in TrafficKind])
    assert np.isfinite(features).all()
    still = [f.name for f, spread in zip(TASK_FEATURES, np.ptp(features, axis=0), strict=True) if spread < 1e-9]
    assert not still


def test_no_pair_feature_is_constant_over_varied_tasks() -> None:
    pairs = np.concatenate([table(kind).pair_features[table(kind).feasible] for kind in TrafficKind])
    assert np.isfinite(pairs).all()
    still = [f.name for f, spread in zip(PAIR_FEATURES, np.ptp(pairs, axis=0), strict=True) if spread < 1e-9]
    assert not still


def test_no_settings_feature_is_constant_over_the_portfolio() -> None:
    asked = [question(task(), m.name) for m in portfolio() if isinstance(replica_of(task(), m), ReplicaSpec)]
    names = [f.name for f in QUESTION_FEATURES]
    features = question_features(asked)
    for name in ("set_budget", "set_sequences", "set_copied_drafts", "set_cache_value_bytes", "set_fp8_weights"):
        assert np.ptp(features[:, names.index(name)]) > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_keeps_the_contract(kind: TrafficKind) -> None:
    found = table(kind)
    n, m = len(tasks(kind)), len(portfolio())
    assert found.features.shape == (n, len(TASK_FEATURES)) == (n, len(found.feature_names))
    assert found.method_features.shape == (m, len(METHOD_FEATURES))
    assert found.pair_features.shape == (n, m, len(PAIR_FEATURES))
    assert len(found.pair_feature_names) == len(PAIR_FEATURES)
    assert found.methods[found.default] == "default"
    assert found.complexity.shape == (m,) and found.complexity[found.default] == 0
    assert np.array_equal(np.isfinite(found.analytical), found.feasible)
    assert np.array_equal(np.isfinite(found.pair_features).all(axis=2), found.feasible)
    assert np.isnan(found.pair_features[~found.feasible]).all()
    assert found.model.shape == found.accelerator.shape == found.workload.shape == (n,)
    assert 0.2 < found.feasible.mean() < 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_gains_are_zero_for_the_default(kind: TrafficKind) -> None:
    found = table(kind)
    gains = [
        place
        for place, name in enumerate(found.pair_feature_names)
        if name.endswith("_gain") and "batching" not in name
    ]
    of_default = found.pair_features[found.feasible[:, found.default], found.default]
    assert (of_default[:, gains] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_has_the_same_row_alone_as_among_others(kind: TrafficKind) -> None:
    found = table(kind)
    for row in (3, 40):
        alone = task_table([tasks(kind)[row]])
        np.testing.assert_allclose(alone.pair_features[0], found.pair_features[row], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(alone.features[0], found.features[row], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_expected_of_a_pair_is_said_beside_the_pairs_that_may_be(kind: TrafficKind) -> None:
    whole = table(kind)
    rows, column = np.arange(len(whole.feasible)), whole.pair_feature_names.index(EXPECTED_PAIR)
    expected = np.where(whole.feasible, whole.pair_features[:, :, column], -np.inf)
    best = expected.argmax(axis=1)
    allowed = np.ones(whole.feasible.shape, dtype=np.bool_)
    allowed[rows, best] = best == whole.default
    found = task_table(tasks(kind), allowed=allowed)
    np.testing.assert_array_equal(found.feasible, whole.feasible & allowed)
    left = found.feasible.any(axis=1)
    behind = np.where(found.feasible, found.pair_features[:, :, column], -np.inf).max(axis=1)
    before = np.where(found.feasible, expected, -np.inf).max(axis=1)
    assert (behind >= before - 1e-9)[left].all()
    assert (behind > before + 0.01)[left & (best != whole.default)].any()


def test_tables_and_questions_share_one_definition() -> None:
    some = [
        each
        for each in tasks(TrafficKind.CONCURRENCY)[::7]
        if isinstance(replica_of(each, method("default")), ReplicaSpec)
    ]
    names = {f.name: place for place, f in enumerate(QUESTION_FEATURES)}
    asked = question_features([question(each) for each in some])
    shared = [f.name for f in TASK_FEATURES if f.name in names]
    expected = asked[:, [names[name] for name in shared]]
    assert len(shared) > 80
    np.testing.assert_array_equal(task_features(some)[:, : len(shared)], expected)
    np.testing.assert_array_equal(task_table(some).features[:, : len(shared)], expected)


def test_a_task_that_no_method_can_serve_has_no_features() -> None:
    too_big = task(model="meta-llama/Llama-3.1-405B", accelerator="L40S-PCIe-48GB")
    found = task_table([too_big, task()])
    assert not found.feasible[0].any()
    assert np.isnan(found.features[0]).all()
    assert np.isnan(task_features([too_big])).all()
    assert np.isfinite(found.features[1]).all()


def test_requests_longer_than_the_context_are_infeasible() -> None:
    assert not task_table([task(max_model_len=1024)]).feasible.any()


def test_a_method_that_needs_what_is_not_there_is_infeasible() -> None:
    found = task_table([task()])
    allowed = dict(zip(found.methods, found.feasible[0], strict=True))
    assert allowed["default"] and allowed["fp8-weights"] and allowed["ngram"]
    assert not allowed["mtp"] and not allowed["eagle"]


def test_kinds_of_traffic_do_not_mix() -> None:
    with pytest.raises(InvalidWorkloadError, match="one kind of traffic"):
        task_table([task(TrafficKind.RATE), task(TrafficKind.BATCH)])


def test_a_table_needs_the_default() -> None:
    with pytest.raises(InvalidWorkloadError, match="default"):
        task_table([task()], [method("ngram")])


def test_no_tasks_make_an_empty_table() -> None:
    found = task_table([])
    assert len(found) == 0
    assert found.features.shape == (0, len(TASK_FEATURES))
    assert task_features([]).shape == (0, len(TASK_FEATURES))
    assert question_features([]).shape == (0, len(QUESTION_FEATURES))


def test_the_default_method_changes_nothing() -> None:
    found = method_features(portfolio())
    assert (found[0] == 0).all()
    assert len(np.unique(found, axis=0)) == len(portfolio())


def test_workloads_group_by_their_requests_and_not_by_their_load() -> None:
    same, other = task(), task(traffic=replace(task().traffic, load=RateLoad(3.0)))
    alike = task(traffic=replace(task().traffic, input_tokens=TokenLengths(1500, 2500), burstiness=2.0))
    found = task_table([same, other, alike]).workload
    assert found[0] == found[1] == found[2] == "grid: in 256-2048, out 64-512, prefix < half, repeats Unknown"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"input_tokens": TokenLengths(255), "shared_prefix": None}, "in <256", id="short prompts"),
        pytest.param({"input_tokens": TokenLengths(2048, 5000)}, "in >=2048", id="long prompts, from the edge on"),
        pytest.param({"output_tokens": TokenLengths(63)}, "out <64", id="short answers"),
        pytest.param({"output_tokens": TokenLengths(512)}, "out >=512", id="long answers"),
        pytest.param({"shared_prefix": None}, "no prefix", id="no shared prefix"),
        pytest.param({"shared_prefix": SharedPrefix(900)}, "prefix >= half", id="most of each prompt is shared"),
        pytest.param({"repetitiveness": Repetitiveness.HIGH}, "repeats High", id="repetition"),
    ],
)
def test_unlike_workloads_are_groups_of_their_own(change: dict[str, object], expected: str) -> None:
    changed = task(traffic=replace(task().traffic, **change))  # type: ignore[arg-type]
    first, second = task_table([task(), changed]).workload
    assert first != second
    assert expected in str(second)


def test_traces_are_no_neighbours_of_the_grid() -> None:
    first, second = task_table([task(), task(origin="azure-chat")]).workload
    assert str(second).removeprefix("azure-chat") == str(first).removeprefix("grid")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Qwen2.5-7B: 28 layers, 4 KV heads of 128, keys and values of 2 bytes.
        pytest.param("model_kv_bytes_per_token", math.log1p(28 * 4 * 128 * 2 * 2), id="KV bytes per token"),
        pytest.param("model_queries_per_kv_head", 7.0, id="28 query heads over 4"),
        pytest.param("model_full_share", 1.0, id="all layers see the whole context"),
        pytest.param("model_experts", 0.0, id="dense"),
        pytest.param("hw_fp8_speedup", math.log(1979 / 989.5), id="FP8 is twice as fast on Hopper"),
        pytest.param("hw_scale_up_link", 1.0, id="NVLink"),
        pytest.param("prefix_token_share", 0.7 * 512 / 1000, id="shared tokens"),
        pytest.param("prefix_saved_share", 0.7 * 512 / 1000, id="and all of them stay in the cache"),
        pytest.param("repetitiveness_unknown", 1.0, id="nothing is said about repetition"),
        pytest.param("slo_quantile", 0.0, id="no promise"),
    ],
)
def test_features_are_what_one_computes_by_hand(name: str, expected: float) -> None:
    assert feature(task(), name) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        pytest.param("hw_bandwidth", {"accelerator": "B200-SXM-180GB"}, id="more bandwidth"),
        pytest.param("capacity", {"accelerator": "B200-SXM-180GB"}, id="more capacity"),
        pytest.param("weights_memory_ratio", {"accelerator": "A10-PCIe-24GB"}, id="weights take more of a small card"),
        pytest.param("collective_share", {"layout": Layout(tensor_parallel=2)}, id="collectives with more ranks"),
        pytest.param("ttft_unloaded_s", {"accelerator": "L4-PCIe-24GB"}, id="a slow card answers later"),
        pytest.param(
            "load_to_capacity", {"traffic": replace(task().traffic, load=ConcurrencyLoad(4000))}, id="a heavier load"
        ),
        pytest.param(
            "kv_pressure", {"traffic": replace(task().traffic, load=ConcurrencyLoad(4000))}, id="more clients"
        ),
        pytest.param(
            "prefix_pressure",
            {"traffic": replace(task().traffic, shared_prefix=SharedPrefix(512, 0.7, 20_000))},
            id="more distinct prefixes",
        ),
        pytest.param(
            "slo_ttft_tightness",
            {"slo": Slo((SloBound(LatencyMetric.TTFT, Statistic.P95, 0.2),))},
            id="a promise is tighter than none",
        ),
    ],
)
def test_features_rise_with_what_they_stand_for(name: str, change: dict[str, object]) -> None:
    assert feature(task(**change), name) > feature(task(), name)  # type: ignore[arg-type]


def test_a_declared_rate_changes_nothing_where_the_truth_is_searched_for() -> None:
    slow, fast = (task_table([task(traffic=replace(task().traffic, load=RateLoad(rate)))]) for rate in (0.1, 9.0))
    np.testing.assert_allclose(slow.features, fast.features, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(slow.pair_features, fast.pair_features, rtol=1e-9, atol=1e-9)
    names = slow.pair_feature_names
    for name in ("pair_ttft_declared", "pair_tpot_declared", "pair_throughput", "pair_load_to_capacity"):
        for each in (name, f"{name}_gain"):
            assert (slow.pair_features[slow.feasible][:, names.index(each)] == 0.0).all()
    assert "load_rate" not in slow.feature_names


def test_a_predictor_that_serves_sees_the_rate_that_it_is_asked_about() -> None:
    slow, fast = (
        question_features([replace(question(task()), traffic=replace(task().traffic, load=RateLoad(rate)))])[0]
        for rate in (0.1, 9.0)
    )
    names = [f.name for f in QUESTION_FEATURES]
    for name in ("load_rate", "load_to_capacity", "kv_pressure"):
        assert fast[names.index(name)] - slow[names.index(name)] == pytest.approx(math.log(90.0))


def test_clients_and_batches_keep_what_their_load_says() -> None:
    few, many = (
        task_table([task(traffic=replace(task().traffic, load=ConcurrencyLoad(clients)))]) for clients in (4, 400)
    )
    place = few.pair_feature_names.index("pair_tpot_declared")
    assert many.pair_features[0, many.default, place] > few.pair_features[0, few.default, place]


@pytest.mark.parametrize(
    ("name", "drafts", "by_head"),
    [
        pytest.param("default", 0.0, 0.0, id="no drafts"),
        pytest.param("mtp-3", 3.0, 0.0, id="the model's own layers"),
        pytest.param("eagle", 3.0, 1.0, id="a head of its own"),
    ],
)
def test_drafts_of_a_head_are_told_from_those_of_the_models_own_layers(
    name: str, drafts: float, by_head: float
) -> None:
    asked = task(model="deepseek-ai/DeepSeek-V3.2", accelerator="B200-SXM-180GB", draft_model=True)
    asked = replace(asked, layout=Layout(tensor_parallel=8))
    features = question_features([question(asked, name)])[0]
    names = [f.name for f in QUESTION_FEATURES]
    assert features[names.index("set_trained_drafts")] == drafts
    assert features[names.index("set_drafts_by_head")] == by_head


def test_expected_tokens_of_a_step_and_hits_are_those_of_the_predictor() -> None:
    found = task_table([task(traffic=replace(task().traffic, repetitiveness=Repetitiveness.HIGH))])
    names = found.pair_feature_names
    per_step = found.pair_features[0, :, names.index("pair_tokens_per_step")]
    drafting = tokens_per_step(method("ngram").settings.speculation, Repetitiveness.HIGH)
    assert per_step[found.methods.index("ngram")] == pytest.approx(math.log(drafting))
    assert per_step[found.default] == 0.0
    hits = found.pair_features[0, :, names.index("pair_prefix_hit_ratio")]
    assert hits[found.default] == pytest.approx(0.7)  # all of the declared share: twenty prefixes fit
    assert hits[found.methods.index("no-prefix-caching")] == 0.0


def test_features_of_replicas_together_see_less_load_each() -> None:
    names = [f.name for f in QUESTION_FEATURES]
    asked = question(task())
    one, four = question_features([asked, replace(asked, replicas=4)])
    place = names.index("load_to_capacity")
    assert four[place] == pytest.approx(one[place] - math.log(4))
    assert np.array_equal(
        np.delete(one, [place, names.index("kv_pressure")]), np.delete(four, [place, names.index("kv_pressure")])
    )


def test_remembered_replicas_and_traffics_give_the_same_features() -> None:
    known = QuestionFeatures()
    asked = [question(each, name) for each in (task(), task(TrafficKind.BATCH)) for name in ("default", "ngram")]
    first = known.transform(asked)
    np.testing.assert_array_equal(known.transform(asked[::-1])[::-1], first)
    np.testing.assert_array_equal(question_features(asked), first)
    assert first.shape[1] == len(known.names)


SLO = Slo((SloBound(LatencyMetric.TTFT, Statistic.P95, 0.5), SloBound(LatencyMetric.TPOT, Statistic.P95, 0.03)))


@pytest.mark.parametrize("name", ["default", "small-token-budget", "ngram", "fp8-weights"])
def test_the_sustained_rate_is_the_highest_that_the_predictor_says_keeps_the_slo(name: str) -> None:
    asked = task(slo=SLO)
    found = task_table([asked])
    rate = math.exp(found.analytical[0, found.methods.index(name)])
    replica = question(asked, name).replica

    def keeps(requests_per_second: float) -> bool:
        traffic = replace(asked.traffic, load=RateLoad(requests_per_second))
        latency = AnalyticalPredictor().predict([Question(replica, traffic)]).latency_s[0]
        return bool(latency[0, 2] <= 0.5 and latency[1, 2] <= 0.03)

    assert keeps(rate * 0.97)
    assert not keeps(rate * 1.03)


def test_without_a_promise_the_sustained_rate_is_the_capacity() -> None:
    found = task_table([task()])
    capacity = AnalyticalPredictor().predict([question(task())]).capacity_requests_per_second[0]
    assert math.exp(found.analytical[0, found.default]) == pytest.approx(capacity, rel=1e-6)


def test_the_sustained_rate_counts_per_accelerator() -> None:
    two = task(layout=Layout(tensor_parallel=2))
    found = task_table([two])
    capacity = AnalyticalPredictor().predict([question(two)]).capacity_requests_per_second[0]
    assert math.exp(found.analytical[0, found.default]) == pytest.approx(capacity / 2, rel=1e-6)


def test_a_promise_out_of_reach_counts_the_less_the_further_it_is() -> None:
    def performance(bound_s: float) -> float:
        found = task_table([task(slo=Slo((SloBound(LatencyMetric.TTFT, Statistic.P95, bound_s),)))])
        return float(found.analytical[0, found.default])

    values = [performance(bound_s) for bound_s in (1.0, 0.01, 0.005, 0.001)]
    assert all(a > b for a, b in itertools.pairwise(values))
    assert np.isfinite(values).all()


@pytest.mark.parametrize("kind", [TrafficKind.CONCURRENCY, TrafficKind.BATCH])
def test_other_performance_is_what_the_predictor_says(kind: TrafficKind) -> None:
    found = task_table([task(kind)])
    answer = AnalyticalPredictor().predict([question(task(kind))])
    expected = answer.output_tokens_per_second[0] if kind is TrafficKind.CONCURRENCY else 1.0 / answer.makespan_s[0]
    assert math.exp(found.analytical[0, found.default]) == pytest.approx(expected, rel=1e-9)


def test_goodput_is_the_throughput_of_the_requests_that_keep_the_slo() -> None:
    load = replace(task().traffic, load=ConcurrencyLoad(64))

    def share(bound_s: float, statistic: Statistic = Statistic.P95) -> float:
        slo = Slo((SloBound(LatencyMetric.TPOT, statistic, bound_s),))
        with_slo, without = (task_table([task(traffic=load, slo=each)]) for each in (slo, Slo()))
        return float(np.exp(with_slo.analytical[0, with_slo.default] - without.analytical[0, without.default]))

    tpot = AnalyticalPredictor().predict([question(task(traffic=load))]).latency_s[0, 1]
    assert share(float(tpot[1])) == pytest.approx(0.5, abs=1e-3)
    assert share(float(tpot[2])) == pytest.approx(0.95, abs=1e-3)
    assert share(float(tpot[3])) == pytest.approx(0.99, abs=1e-3)
    assert share(10.0) == pytest.approx(1.0, abs=1e-3)
    assert share(float(tpot[2]), Statistic.MEAN) == pytest.approx(0.95, abs=1e-3)
    assert 0 < share(1e-6) < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_the_worst_of_the_margins_is_the_excess(kind: TrafficKind) -> None:
    found = table(kind)
    margins = [pair_feature(found, f"pair_{metric}_margin_empty")[found.feasible] for metric in LATENCY_METRICS]
    np.testing.assert_array_equal(np.max(margins, axis=0), pair_feature(found, "pair_excess_empty")[found.feasible])


def test_margins_shrink_as_the_load_rises() -> None:
    found = table(TrafficKind.RATE)
    for metric in LATENCY_METRICS:
        names = [f"pair_{metric}_margin_{place}" for place in ("empty", "25", "50", "80")]
        for one, other in itertools.pairwise([pair_feature(found, name)[found.feasible] for name in names]):
            assert (other >= one - 0.05).all()


def test_the_default_is_at_a_bound_at_its_own_highest_rate() -> None:
    found = task_table([task(slo=SLO)])
    margins = [pair_feature(found, f"pair_{metric}_margin_default")[0, found.default] for metric in LATENCY_METRICS]
    assert max(margins) == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_one_promise_binds_and_none_where_nothing_is_promised(kind: TrafficKind) -> None:
    found = table(kind)
    binds = {metric: pair_feature(found, f"pair_{metric}_binds") for metric in LATENCY_METRICS}
    metrics = [{bound.metric for bound in each.slo.bounds} for each in tasks(kind)]
    promised = np.array([[metric in own for metric in LATENCY_METRICS] for own in metrics])
    some = np.broadcast_to(promised.any(axis=1)[:, None], found.feasible.shape)
    np.testing.assert_array_equal(sum(binds.values())[found.feasible], some[found.feasible])
    for place, metric in enumerate(LATENCY_METRICS):
        assert not binds[metric][found.feasible & ~promised[:, [place]]].any()


@pytest.mark.parametrize("kind", [TrafficKind.RATE, TrafficKind.CONCURRENCY])
def test_longer_latencies_are_never_better(kind: TrafficKind) -> None:
    found = table(kind)
    known = found.feasible[:, found.default]
    names = ("pair_rate_tight", "pair_performance", "pair_rate_loose")
    tight, one, loose = (pair_feature(found, name)[known, found.default] for name in names)
    assert (tight <= one + 1e-9).all() and (one <= loose + 1e-9).all()
    assert (tight < loose - 1e-6).any()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_expected_is_a_share_and_a_shortfall(kind: TrafficKind) -> None:
    found = table(kind)
    kept = pair_feature(found, "pair_kept_share")[found.feasible]
    expected = pair_feature(found, EXPECTED_PAIR)[found.feasible]
    assert (kept >= 0.0).all() and (kept <= 1.0 + 1e-12).all()
    assert (expected >= LOST - 1e-9).all() and (expected <= 1e-9).all()
    unpromised = np.array([not t.slo.bounds for t in tasks(kind)])[:, None] & found.feasible
    np.testing.assert_allclose(pair_feature(found, "pair_kept_share")[unpromised], 1.0, atol=1e-3)


def test_a_promise_is_the_likelier_to_be_kept_the_more_room_it_leaves() -> None:
    def kept(bound_s: float) -> float:
        found = task_table([task(slo=Slo((SloBound(LatencyMetric.TTFT, Statistic.P95, bound_s),)))])
        return float(pair_feature(found, "pair_kept_share")[0, found.default])

    shares = [kept(bound_s) for bound_s in (0.001, 0.02, 0.05, 0.1, 10.0)]
    assert all(a <= b for a, b in itertools.pairwise(shares))
    assert shares[0] < 0.05 and shares[-1] > 0.95


def test_where_no_promise_can_be_kept_the_nearest_to_it_is_the_least_behind() -> None:
    found = task_table([task(slo=Slo((SloBound(LatencyMetric.TTFT, Statistic.P95, 1e-6),)))])
    expected = pair_feature(found, EXPECTED_PAIR)[0]
    assert np.nanmax(expected) == 0.0
    assert np.nanargmax(expected) == np.nanargmax(found.analytical[0])


def test_text_of_which_nothing_is_declared_is_every_class_by_its_share() -> None:
    # A batch has no promises, so that errors of latency are nothing to it.
    def batch(repetitiveness: Repetitiveness) -> TaskTable:
        asked = task(TrafficKind.BATCH)
        return task_table([replace(asked, traffic=replace(asked.traffic, repetitiveness=repetitiveness))])

    unknown = pair_feature(batch(Repetitiveness.UNKNOWN), EXPECTED_PAIR)[0]
    declared = [(share, analytical_shortfalls(batch(each))[0]) for each, share in UNKNOWN_MIXTURE]
    np.testing.assert_allclose(unknown, sum(share * found for share, found in declared), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(
        pair_feature(batch(Repetitiveness.HIGH), EXPECTED_PAIR)[0],
        analytical_shortfalls(batch(Repetitiveness.HIGH))[0],
        rtol=1e-6,
        atol=1e-9,
    )


def test_unknown_text_is_taken_as_the_corpus_draws_it() -> None:
    assert corpus_traffic.UNKNOWN_MIXTURE is UNKNOWN_MIXTURE


@pytest.mark.parametrize(("z", "share"), [(0.0, 0.5), (1.6448536, 0.95), (-2.3263479, 0.01), (math.inf, 1.0)])
def test_shares_of_a_normal_distribution(z: float, share: float) -> None:
    assert normal_share(np.array([z]))[0] == pytest.approx(share, abs=5e-4)


def test_one_workload_on_several_places_has_the_same_draws() -> None:
    longer = replace(task().traffic, output_tokens=TokenLengths(201, 500))
    places = [task(), task(accelerator=ACCELERATORS[1]), task(layout=Layout(tensor_parallel=2)), task(traffic=longer)]
    table = task_table(places)
    draws, keys = table.draws, table.keys
    assert draws is not None and keys is not None
    assert draws[0] == draws[1] == draws[2] != draws[3]
    assert keys.tolist() == [place.key for place in places]
    assert table.rows(np.array([2, 0])).keys.tolist() == [places[2].key, places[0].key]


def test_what_a_served_predictor_sees_is_no_pair_feature() -> None:
    assert not {f.name for f in PAIR_FEATURES} & {*INPUTS, *(f.name for f in QUESTION_FEATURES)}


def test_traffic_of_one_token_has_features_too() -> None:
    shortest = Traffic(RateLoad(1.0), TokenLengths(1), TokenLengths(1))
    found = task_table([task(traffic=shortest)])
    assert np.isfinite(found.features).all()
    assert np.isfinite(found.pair_features[found.feasible]).all()
