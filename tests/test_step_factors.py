"""Factors on the steps of accelerators: whom they hold for, what they multiply, and how they are learnt."""

from dataclasses import replace

import numpy as np
import pytest

from distorted_corpus import corpus, slower
from metainf.dtypes import DType
from metainf.evaluation.groups import accelerator_group
from metainf.layouts import Layout
from metainf.meta_features.questions import QuestionFeatures
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.base_answers import CAPACITY, LATENCIES
from metainf.predictors.contract import Question, ReplicaSpec
from metainf.predictors.lanes import REPLICA_ROW
from metainf.predictors.step_factors import PARTS, StepFactors
from metainf.roofline import StepModel
from metainf.training.rows import TrainingRows, merged, training_rows
from metainf.training.step_factors import factor_slopes, fitted_factors
from metainf.workload import ConcurrencyLoad, TokenLengths, Traffic
from test_predictor_contract import spec

LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
H100, L4 = spec(LLAMA_8B, "H100-SXM-80GB"), spec(LLAMA_8B, "L4-PCIe-24GB")
GPT_OSS = spec("openai/gpt-oss-20b", "H100-SXM-80GB")
STEPS = StepModel.__slots__


def narrowed(replica: ReplicaSpec, **settings: DType) -> ReplicaSpec:
    return replace(replica, settings=replace(replica.settings, **settings))


def factors(**logs: float) -> StepFactors:
    """One accelerator's, of these parts; others have half of the logarithms."""
    table = np.array([[logs.get(part, 0.0) for part in PARTS]])
    return StepFactors(("H100-SXM-80GB",), table, table[0] / 2.0)


def multiplied(found: StepFactors, replica: ReplicaSpec) -> dict[str, float]:
    """The numbers of a step that are not left as they are."""
    row = found.of(replica)
    return {name: round(float(row[place]), 6) for place, name in enumerate(STEPS) if row[place] != 1.0}


@pytest.mark.parametrize(
    ("logs", "replica", "expected"),
    [
        pytest.param({}, H100, {}, id="nothing learnt"),
        pytest.param({"fixed": np.log(2.0)}, H100, {"fixed_s": 2.0}, id="one part"),
        pytest.param({"fixed": np.log(4.0)}, L4, {"fixed_s": 2.0}, id="an accelerator that nobody knows"),
        pytest.param({"fixed": np.log(4.0)}, spec(LLAMA_8B, "Xeon-Granite-Rapids"), {}, id="a CPU"),
        pytest.param({"fixed": np.log(4.0)}, spec(LLAMA_8B, "MI300X-OAM-192GB"), {}, id="a vendor that nobody knows"),
        pytest.param(
            {"dense_read": np.log(2.0), "narrowed_dense": np.log(3.0)},
            H100,
            {"dense_read_s": 2.0, "head_read_s": 2.0},
            id="what narrowing does, without it",
        ),
        pytest.param(
            {"dense_read": np.log(2.0), "narrowed_dense": np.log(3.0)},
            narrowed(H100, weight_dtype=DType.FP8),
            {"dense_read_s": 6.0, "dense_token_s": 3.0, "head_read_s": 2.0},
            id="narrowed weights",
        ),
        pytest.param(
            {"narrowed_cache": np.log(3.0)},
            narrowed(H100, kv_cache_dtype=DType.FP8),
            {"cache_read_s": 3.0, "window_read_s": 3.0},
            id="a narrowed cache",
        ),
        pytest.param(
            {"plain_dense_token": np.log(3.0)}, H100, {"dense_token_s": 3.0}, id="products of 16 bits, where they are"
        ),
        pytest.param(
            {"plain_dense_token": np.log(3.0)}, narrowed(H100, weight_dtype=DType.FP8), {}, id="and where they are not"
        ),
        pytest.param(
            {"narrow_fixed": np.log(3.0)},
            narrowed(H100, weight_dtype=DType.FP8),
            {"fixed_s": 3.0},
            id="what rounding to few bits adds to the launches of a step",
        ),
        pytest.param({"narrow_fixed": np.log(3.0)}, H100, {}, id="and nothing where all is in 16 bits"),
        pytest.param(
            {"collective": np.log(3.0), "link": np.log(5.0), "collective_ranks": np.log(2.0)},
            spec(LLAMA_8B, "H100-SXM-80GB", 4),
            {"collective_s": 3.0, "link_token_s": 5.0},
            id="collectives of four ranks",
        ),
        pytest.param(
            {"collective_ranks": np.log(2.0), "link_ranks": np.log(3.0)},
            spec(LLAMA_8B, "H100-SXM-80GB", 8),
            {"collective_s": 2.0},
            id="of eight on a switch: once more",
        ),
        pytest.param(
            {"collective_ranks": np.log(4.0), "link_ranks": np.log(9.0)},
            spec(LLAMA_8B, "L40S-PCIe-48GB", 8),
            {"collective_s": 2.0, "link_token_s": 3.0},
            id="of eight over PCIe",
        ),
        pytest.param(
            {"collective_ranks": np.log(4.0), "link_ranks": np.log(9.0)},
            spec(LLAMA_8B, "L40S-PCIe-48GB", 2),
            {"collective_s": 0.5, "link_token_s": round(1 / 3, 6)},
            id="of two over PCIe: once less",
        ),
        pytest.param(
            {"collective_ranks": np.log(4.0), "link_ranks": np.log(9.0)},
            replace(spec(LLAMA_8B, "L40S-PCIe-48GB"), layout=Layout(pipeline_parallel=8)),
            {"collective_s": 0.5, "link_token_s": round(1 / 3, 6)},
            id="of stages: from one to another",
        ),
        pytest.param(
            {"stored_expert": np.log(2.0)},
            GPT_OSS,
            {"expert_read_s": 2.0, "expert_token_s": 2.0},
            id="experts that the checkpoint has in 4 bits",
        ),
        pytest.param(
            {"stored_expert": np.log(2.0)},
            spec("Qwen/Qwen3-30B-A3B", "H100-SXM-80GB"),
            {},
            id="experts that the checkpoint has in 16 bits",
        ),
    ],
)
def test_a_factor_multiplies_its_part_on_its_accelerator(
    logs: dict[str, float], replica: ReplicaSpec, expected: dict[str, float]
) -> None:
    assert multiplied(factors(**logs), replica) == expected


def test_every_part_multiplies_something() -> None:
    replicas = [
        narrowed(H100, weight_dtype=DType.FP8, kv_cache_dtype=DType.FP8),
        H100,
        GPT_OSS,
        spec(LLAMA_8B, "L40S-PCIe-48GB", 2),
    ]
    for part in PARTS:
        assert any((factors(**{part: 1.0}).of(replica) != 1.0).any() for replica in replicas), part
    assert all((StepFactors.none().of(replica) == np.ones(REPLICA_ROW)).all() for replica in replicas)


def asked(*replicas: ReplicaSpec) -> list[Question]:
    traffic = Traffic(ConcurrencyLoad(8), TokenLengths(1000), TokenLengths(200))
    return [Question(replica, traffic) for replica in replicas]


def test_slower_parts_make_slower_answers() -> None:
    plain = AnalyticalPredictor().predict(asked(H100))
    slow = AnalyticalPredictor(factors=factors(dense_read=0.5)).predict(asked(H100))
    assert (slow.latency_s > plain.latency_s).all()
    assert slow.capacity_requests_per_second < plain.capacity_requests_per_second


def test_features_under_other_factors_are_as_if_they_were_made_anew() -> None:
    first, second = factors(fixed=1.0), factors(dense_read=0.3)
    known = QuestionFeatures(factors=first)
    known.transform(asked(H100, L4))
    for each in (second, first, None):
        fresh = QuestionFeatures(factors=each).transform(asked(H100, L4))
        np.testing.assert_array_equal(known.under(each).transform(asked(H100, L4)), fresh)


@pytest.fixture(scope="module")
def rows() -> TrainingRows:
    table, tasks = corpus(noise=0.0)
    return training_rows(table, {task.key: task for task in tasks})


def every(rows: TrainingRows) -> np.ndarray:
    return np.ones(len(rows.questions), dtype=np.bool_)


def error(rows: TrainingRows, which: np.ndarray | None = None) -> float:
    """Median absolute residual of latencies and the capacity."""
    told = np.abs(rows.residual[:, [*range(LATENCIES), CAPACITY]])
    return float(np.nanmedian(told if which is None else told[which]))


def test_rows_under_no_factors_are_what_they_were(rows: TrainingRows) -> None:
    same = rows.under(factors(fixed=0.4)).under(StepFactors.none())
    np.testing.assert_array_equal(same.residual, rows.residual)
    np.testing.assert_array_equal(same.inputs, rows.inputs)
    np.testing.assert_array_equal(same.coordinate, rows.coordinate)


def test_learns_how_slow_each_accelerator_is(rows: TrainingRows) -> None:
    found = fitted_factors(rows, factor_slopes(rows), every(rows))
    assert set(found.accelerators) == set(rows.accelerator.tolist())
    assert error(rows) > 0.1
    assert error(rows.under(found)) < 0.03
    reading = found.log[:, PARTS.index("dense_read")]
    truth = np.log([slower(name) for name in found.accelerators])
    assert np.corrcoef(reading, truth)[0, 1] > 0.9


def test_what_all_share_is_told_of_an_accelerator_without_rows(rows: TrainingRows) -> None:
    of_lane = np.array([accelerator_group(name) for name in rows.accelerator.tolist()])
    inside = of_lane != accelerator_group("B200-SXM-180GB")
    found = fitted_factors(rows, factor_slopes(rows), inside)
    assert "B200-SXM-180GB" not in found.accelerators
    outside = ~inside[rows.lane]
    # All are slower than expected, by 1 to 35 %: what they share is nearer to it than nothing.
    assert error(rows.under(found), outside) < error(rows, outside)


def test_rows_that_are_not_inside_say_nothing(rows: TrainingRows) -> None:
    inside = rows.model != rows.model[0]
    slopes = factor_slopes(rows)
    more = 2.0 * ~inside[rows.lane][:, None]
    bent = replace(rows, truth=rows.truth + more, residual=rows.residual + more)
    one, other = (fitted_factors(each, slopes, inside) for each in (rows, bent))
    assert one.digest == other.digest


def test_many_rows_of_one_task_do_not_count_for_many(rows: TrainingRows) -> None:
    twice = replace(
        rows,
        **{
            name: np.concatenate([getattr(rows, name)] * 2)
            for name in ("lane", "load", "utilization", "truth", "coordinate", "residual", "weight")
        },
    )
    one, other = (fitted_factors(each, factor_slopes(each), every(each)) for each in (rows, twice))
    np.testing.assert_allclose(one.log, other.log, rtol=1e-5, atol=1e-6)


def test_rows_are_put_together_from_parts(rows: TrainingRows) -> None:
    other = rows.under(factors(fixed=1.0))
    odd = np.arange(len(rows.questions)) % 2 == 1
    found = merged([(np.flatnonzero(odd), other), (np.flatnonzero(~odd), rows)])
    for name in ("inputs", "capacity"):
        expected = np.where(odd if name == "capacity" else odd[:, None], getattr(other, name), getattr(rows, name))
        np.testing.assert_array_equal(getattr(found, name), expected)
    of_row = odd[rows.lane]
    np.testing.assert_array_equal(found.coordinate, np.where(of_row, other.coordinate, rows.coordinate))
    np.testing.assert_array_equal(found.residual, np.where(of_row[:, None], other.residual, rows.residual))
    fixed = np.asarray(found.lanes.lane.steps.fixed_s)
    np.testing.assert_array_equal(fixed, np.where(odd, other.lanes.lane.steps.fixed_s, rows.lanes.lane.steps.fixed_s))
    np.testing.assert_array_equal(found.lanes.of, np.arange(len(odd)))
