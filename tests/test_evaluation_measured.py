import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from metainf.corpus.public_rows import PLAIN
from metainf.corpus.task import TrafficKind
from metainf.evaluation.bootstrap import Interval
from metainf.evaluation.calibration import HeldOutDecision
from metainf.evaluation.intervals import IntervalFigures
from metainf.evaluation.measured import (
    MeasuredGroup,
    best_options,
    groups_with_rows,
    read_measured,
    repeat_deviation,
)
from metainf.evaluation.operator_choice import OperatorFigures, OperatorTasks, operator_figures
from metainf.evaluation.operator_study import OperatorStudy
from metainf.evaluation.report_sections import (
    calibration_section,
    intervals_section,
    measured_section,
    operator_section,
)
from metainf.workload import LossyPolicy

DATA = Path(os.environ.get("METAINF_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
GPUSTACK = DATA / "measured" / "gpustack_perflab.csv"
needs_data = pytest.mark.skipif(not GPUSTACK.is_file(), reason="METAINF_DATA has no measured/gpustack_perflab.csv")

COLUMNS = (
    "sub,profile,script,tag,versions,ok,max_conc,dur_s,in_tok,out_tok,out_tps,engine,model_page,gpu,load_gen,"
    "ttft_mean,ttft_p50,ttft_p99,tpot_mean,tpot_p50,tpot_p99"
)


def row(script: str, out_tps: float, changes: Mapping[str, str] = MappingProxyType({})) -> str:
    values = {
        "sub": "1. Batched tokens",
        "script": script,
        "versions": "v0.11.0",
        "ok": "1000",
        "dur_s": "60",
        "in_tok": "221000",
        "out_tok": "200000",
        "out_tps": str(out_tps),
        "engine": "vllm",
        "model_page": "qwen3-8b",
        "gpu": "h100",
        "load_gen": "vllm bench serve",
    } | dict(changes)
    return ",".join(values.get(name, "") for name in COLUMNS.split(","))


def groups_of(tmp_path: Path, *rows: str) -> tuple[MeasuredGroup, ...]:
    path = tmp_path / "gpustack_perflab.csv"
    path.write_text("\n".join((COLUMNS, *rows)) + "\n")
    return tuple(group for group, _ in groups_with_rows(read_measured(path)))


@pytest.mark.parametrize(
    ("script", "tag", "option"),
    [
        pytest.param(
            "vllm serve Qwen/Qwen3-8B --max-model-len 32768 -tp 1", "", PLAIN, id="nothing that changes speed"
        ),
        pytest.param("vllm serve m --async-scheduling", "", "async-scheduling", id="a switch"),
        pytest.param("vllm serve m --max-num-seqs=128", "", "max-num-seqs=128", id="a value"),
        pytest.param(
            "vllm serve m --max-num-batched-tokens 4096",
            "# --max-num-batched-tokens 8192",
            "max-num-batched-tokens=8192",
            id="the heading names the value that was varied",
        ),
        pytest.param("vllm serve Qwen/Qwen3-32B-FP8", "", "FP8 checkpoint", id="a quantised checkpoint"),
        pytest.param("export VLLM_USE_DEEP_GEMM=0 vllm serve m", "", "VLLM_USE_DEEP_GEMM=0", id="an environment"),
    ],
)
def test_an_option_is_what_changes_speed(tmp_path: Path, script: str, tag: str, option: str) -> None:
    (group,) = groups_of(tmp_path, row(script, 100.0, {"tag": tag}), row("vllm serve m --other", 110.0))
    assert set(group.performance) == {option, "other"}


def test_groups_share_model_gpu_and_load(tmp_path: Path) -> None:
    other = [
        {"gpu": "a100"},
        {"ok": "500"},
        {"max_conc": "4"},
        {"versions": "v0.13.0"},
        {"script": "vllm serve m -pp 2"},
    ]
    lonely = [row("vllm serve m --other", 110.0, change) for change in other]
    assert groups_of(tmp_path, row("vllm serve m", 100.0), *lonely) == ()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"engine": "sglang"}, id="another engine"),
        pytest.param({"profile": "`ShareGPT 8RPS`"}, id="a given rate"),
        pytest.param({"sub": "Other / Rate 4"}, id="a given rate in the heading"),
        pytest.param({"out_tps": ""}, id="no throughput"),
    ],
)
def test_rows_that_say_nothing_about_throughput_are_left_out(tmp_path: Path, change: dict[str, str]) -> None:
    other = row("vllm serve m --other", 110.0, change)
    assert groups_of(tmp_path, row("vllm serve m", 100.0), other) == ()


def test_repeats_are_averaged_and_set_the_tolerance_and_copies_count_once(tmp_path: Path) -> None:
    rows = [row("vllm serve m", 95.0), row("vllm serve m", 105.0, {"dur_s": "57"}), row("vllm serve m --other", 110.0)]
    (group,) = groups_of(tmp_path, *rows, rows[0])
    assert group.performance == {PLAIN: 100.0, "other": 110.0}
    assert group.tolerance == pytest.approx(2 * math.sqrt(50.0) / 100.0)
    assert group.best == (PLAIN, "other")


def test_the_tolerance_is_pooled_over_options_and_not_that_of_the_luckless(tmp_path: Path) -> None:
    rows = [row("vllm serve m", 95.0), row("vllm serve m", 105.0, {"dur_s": "57"})]
    rows += [row("vllm serve m --other", 110.0), row("vllm serve m --other", 110.0, {"dur_s": "57"})]
    (group,) = groups_of(tmp_path, *rows)
    assert group.tolerance == pytest.approx(2 * math.sqrt(50.0 / 2.0) / 100.0)


def test_options_are_compared_with_no_flags_over_groups() -> None:
    groups = [
        MeasuredGroup("gpustack", f"model-{i}", "h100", "load", {PLAIN: 100.0, "fast": 100.0 * (1.1 + 0.1 * i)}, 0.02)
        for i in range(4)
    ]
    found = best_options(
        [*groups, MeasuredGroup("gpustack", "model-9", "h100", "load", {"fast": 1.0, "slow": 0.5}, 0.02)]
    )
    fast = found.options[0]
    assert (fast.option, fast.groups, fast.best_share.value) == ("fast", 5, 1.0)
    assert fast.over_plain.value == pytest.approx((1.1 * 1.2 * 1.3 * 1.4) ** 0.25)
    assert 1.1 <= fast.over_plain.low < fast.over_plain.high <= 1.4
    assert found.plain_is_best_share.value == 0.0
    assert math.isnan(found.options[-1].over_plain.value)
    assert not found.aims_bind


@needs_data
def test_gpustacks_rows_make_some_thirty_groups() -> None:
    table = read_measured(GPUSTACK)
    groups = [group for group, _ in groups_with_rows(table)]
    assert 0.01 < repeat_deviation(table) < 0.1
    assert 25 <= len(groups) <= 40
    assert all(len(group.performance) > 1 and group.best for group in groups)
    found = best_options(groups)
    assert not found.aims_bind
    assert found.options[0].option == PLAIN
    assert 0.0 < found.plain_is_best_share.value < 1.0


def test_operator_pays_above_the_cheapest_and_breaks_what_it_breaks() -> None:
    nan = math.nan
    tasks = OperatorTasks(
        usd=np.array([[1.0, 2.0, nan], [4.0, 6.0, 1.0], [1.0, 1.0, 1.0], [5.0, 5.0, 5.0]]),
        kept=np.array([[True, True, True], [True, True, False], [True, False, False], [False, False, False]]),
        groups=np.array(["a", "b", "c", "d"]),
    )
    found = operator_figures(tasks, np.array([1, 1, 1, -1], dtype=np.intp))
    assert found.usd_above.value == pytest.approx((8.0 - 5.0) / 5.0)
    assert (found.total_usd, found.cheapest_total_usd) == (8.0, 5.0)
    assert found.infeasible.value == pytest.approx(1 / 3)
    assert found.false_refusals.value == 0.0
    refusing = operator_figures(tasks, np.array([0, -1, -1, -1], dtype=np.intp))
    assert refusing.usd_above.value == 0.0
    assert refusing.false_refusals.value == pytest.approx(2 / 3)
    assert math.isnan(operator_figures(tasks, np.full(4, -1, dtype=np.intp)).usd_above.value)


def test_sections_say_what_is_not_guaranteed_and_that_no_aim_binds() -> None:
    groups = [
        MeasuredGroup("gpustack", f"model-{i}", "h100", "load", {PLAIN: 100.0, "fast": 110.0}, 0.02) for i in range(4)
    ]
    text = measured_section(groups, best_options(groups, repeat_deviation=0.03), source="gpustack")
    assert "4 groups of source gpustack" in text and "fewer than 50, so no aim binds" in text
    assert "the median: 3.0%" in text
    assert "| fast | 4 | 1.000 [1.000, 1.000] | 1.100 [1.100, 1.100] |" in text
    decision = HeldOutDecision(1.5, 0.08, 0.25, 0.2, 0.4, None, 8, 90, 6)
    judged = calibration_section({"metainf": decision}, about="rate", confidence=0.9)
    assert "| metainf | 1.50 | 8.0% | <= 10% | 40.0% | 20.0% | 25.0% | 90 | 6 of 8 | none |" in judged
    found = intervals_section({"metainf": IntervalFigures(0.9, 0.88, 0.5, "g", 0.2, 0.4, 12)}, "ln", about="rate")
    assert "| metainf | 90% | 88.0% | g | 50.0% | 0.2 | 0.4 | 12 |" in found
    few = intervals_section({"metainf": IntervalFigures(0.9, 0.88, 0.5, "g", 0.2, 0.4, 5)}, "ln", about="rate")
    assert "| 5, not guaranteed |" in few
    sure = Interval(0.1, 0.05, 0.2, groups=5)
    figures = {TrafficKind.RATE: {"metainf": OperatorFigures(7, sure, sure, sure, 11.0, 10.0)}}
    operator = operator_section(OperatorStudy(("l4",), 30, figures))
    assert "| Never | rate | metainf | 7 | 5 | 0.100 [0.050, 0.200] |" in operator
    allowed = OperatorStudy(("l4",), 30, figures, LossyPolicy.ALLOW)
    both = operator_section(OperatorStudy(("l4",), 30, figures), allowed)
    assert "| Never | rate | metainf |" in both and "| Allow | rate | metainf |" in both
