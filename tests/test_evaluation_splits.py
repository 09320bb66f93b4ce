from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metainf.architecture import ModelArchitecture
from metainf.evaluation.groups import accelerator_group, model_family, model_groups, shape_key
from metainf.evaluation.splits import SplitKind, grouped_folds, split
from metainf.known_models import known_model, known_model_ids
from selection_tables import learnable_table


@pytest.mark.parametrize(
    ("model_id", "family"),
    [
        pytest.param("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/llama-3", id="minor versions are one series"),
        pytest.param("meta-llama/Meta-Llama-3.1-8B", "meta-llama/llama-3", id="the maker's name before the series"),
        pytest.param("Qwen/Qwen2.5-Coder-32B-Instruct", "qwen/qwen2", id="variants after the version"),
        pytest.param("Qwen/Qwen3.5-397B-A17B", "qwen/qwen3", id="experts after the size"),
        pytest.param("mistralai/Mistral-7B-v0.1", "mistralai/mistral", id="a series without a version"),
        pytest.param("mistralai/Mixtral-8x7B-v0.1", "mistralai/mixtral", id="a size with experts"),
        pytest.param("openai/gpt-oss-120b", "openai/gpt-oss", id="two words"),
        pytest.param("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "deepseek-ai/distill-llama", id="a distillation"),
        pytest.param("local-model", "/local-model", id="no maker"),
    ],
)
def test_family_is_maker_and_series(model_id: str, family: str) -> None:
    assert model_family(model_id) == family


def test_shape_twins_are_in_one_group_whoever_made_them() -> None:
    groups = model_groups(known_model_ids())
    for first, second in [
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "meta-llama/Llama-3.3-70B-Instruct"),
        ("Qwen/QwQ-32B", "Qwen/Qwen2.5-32B-Instruct"),
        ("Qwen/Qwen3-32B-FP8", "Qwen/Qwen3-32B"),
        ("deepseek-ai/DeepSeek-R1", "deepseek-ai/DeepSeek-V3"),
        ("mistralai/Mistral-7B-v0.3", "meta-llama/Llama-3.1-8B"),
    ]:
        assert groups[first] == groups[second]
    assert groups["google/gemma-2-9b-it"] != groups["google/gemma-3-4b-it"]


def test_no_two_groups_of_the_bundled_models_share_a_shape_or_a_family() -> None:
    groups = model_groups(known_model_ids())
    for key in (lambda each: shape_key(architecture(each)), model_family):
        seen: dict[object, str] = {}
        for model_id, group in groups.items():
            assert seen.setdefault(key(model_id), group) == group


def architecture(model_id: str) -> ModelArchitecture:
    found = known_model(model_id)
    assert found is not None
    return found


def test_unknown_models_count_by_their_name() -> None:
    groups = model_groups(["a/Foo-1-7B", "a/Foo-1-70B", "b/Bar-2-7B"])
    assert groups["a/Foo-1-7B"] == groups["a/Foo-1-70B"] != groups["b/Bar-2-7B"]


def test_group_has_the_name_of_its_largest_family() -> None:
    shape = architecture("Qwen/Qwen3-8B")
    groups = model_groups(["a/One-7B", "b/Two-7B", "b/Two-8B"], lambda _: shape)
    assert set(groups.values()) == {"b/two"}


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        pytest.param("H100-SXM-80GB", "H200-SXM-141GB", True, id="H100 with H200"),
        pytest.param("H100-PCIe-80GB", "GH200-96GB", True, id="H100 with GH200"),
        pytest.param("B200-SXM-180GB", "B300-SXM-288GB", True, id="B200 with B300"),
        pytest.param("GB200-186GB", "GB300-279GB", True, id="GB200 with GB300"),
        pytest.param("A100-SXM-80GB", "A100-SXM-80GB-MIG-1g.10gb", True, id="a slice with its GPU"),
        pytest.param("A100-SXM-80GB", "A40-PCIe-48GB", False, id="dies of one generation"),
        pytest.param("EPYC-Genoa", "Graviton3", True, id="all CPUs"),
        pytest.param("H100-SXM-80GB", "Other-1", False, id="an unknown one"),
    ],
)
def test_accelerators_of_a_generation_stay_together(first: str, second: str, same: bool) -> None:
    assert (accelerator_group(first) == accelerator_group(second)) is same


TABLE = learnable_table(300)


@pytest.mark.parametrize("kind", list(SplitKind))
def test_each_task_is_judged_once_and_never_learnt_from_in_its_fold(kind: SplitKind) -> None:
    found = split(TABLE.tasks, kind)
    judged = np.concatenate([fold.test for fold in found.folds])
    assert sorted(judged.tolist()) == list(range(len(TABLE)))
    for fold in found.folds:
        assert not set(fold.train.tolist()) & set(fold.test.tolist())
        assert len(fold.train) and len(fold.test)


@pytest.mark.parametrize("kind", [kind for kind in SplitKind if kind is not SplitKind.RANDOM])
def test_a_fold_shares_no_group_between_its_halves(kind: SplitKind) -> None:
    found = split(TABLE.tasks, kind)
    for fold in found.folds:
        for groups in found.groups:
            assert not set(groups[fold.train].tolist()) & set(groups[fold.test].tolist())


def test_leave_both_out_shares_neither_model_nor_accelerator() -> None:
    found = split(TABLE.tasks, SplitKind.BOTH)
    families = model_groups(TABLE.tasks.model.tolist())
    for fold in found.folds:
        for ids in (TABLE.tasks.model, TABLE.tasks.accelerator):
            assert not set(ids[fold.train].tolist()) & set(ids[fold.test].tolist())
        assert not {families[m] for m in TABLE.tasks.model[fold.train].tolist()} & {
            families[m] for m in TABLE.tasks.model[fold.test].tolist()
        }


def test_leave_both_out_never_has_the_square_of_the_folds_that_are_asked_for() -> None:
    assert len(split(TABLE.tasks, SplitKind.BOTH).folds) == 9
    for most in (2, 8):
        assert len(split(TABLE.tasks, SplitKind.BOTH, most_folds=most).folds) == 4


def test_nobody_learns_from_the_draws_of_a_held_out_task_but_in_the_random_split() -> None:
    draws = np.array([f"workload-{i // 2}" for i in range(len(TABLE))])
    placed = replace(TABLE.tasks, draws=draws)
    for kind in SplitKind:
        shared = [set(draws[fold.train]) & set(draws[fold.test]) for fold in split(placed, kind).folds]
        assert any(shared) if kind is SplitKind.RANDOM else not any(shared)
    kept, all_of_them = (
        sum(len(fold.train) for fold in split(tasks, SplitKind.ACCELERATOR).folds) for tasks in (placed, TABLE.tasks)
    )
    assert 0 < kept < all_of_them


def test_a_fold_that_leaves_nothing_to_learn_from_is_none() -> None:
    alike = replace(TABLE.tasks, draws=np.full(len(TABLE), "one"))
    assert split(alike, SplitKind.ACCELERATOR).folds == ()


@pytest.mark.parametrize("kind", [kind for kind in SplitKind if kind is not SplitKind.RANDOM])
def test_all_of_another_table_is_learnt_from_that_shares_no_group(kind: SplitKind) -> None:
    few, other = TABLE.tasks.rows(np.arange(0, len(TABLE), 5)), learnable_table(400, seed=1).tasks
    found = split(few, kind, taught=other)
    assert sorted(np.concatenate([fold.test for fold in found.folds]).tolist()) == list(range(len(few)))
    assert max(len(fold.train) for fold in found.folds) > len(few)
    for fold in found.folds:
        shared = [np.isin(theirs, mine[fold.test]) for mine, theirs in zip(found.groups, found.taught, strict=True)]
        assert not any(each[fold.train].any() for each in shared)
        if len(shared) == 1:
            assert fold.train.tolist() == np.flatnonzero(~shared[0]).tolist()


def test_families_are_told_over_both_tables() -> None:
    # Two names of one shape: judged under one, learnt from under the other.
    few = replace(TABLE.tasks.rows(np.arange(40)), model=np.array(["Qwen/Qwen3-32B", "Qwen/Qwen3-8B"] * 20))
    other = replace(TABLE.tasks, model=np.full(len(TABLE), "Qwen/Qwen3-32B-FP8"))
    assert split(few, SplitKind.MODEL, taught=other).folds == ()


def test_the_random_split_never_learns_from_the_very_task_in_another_table() -> None:
    few, again = TABLE.tasks.rows(np.arange(100)), TABLE.tasks.rows(np.arange(len(TABLE)))
    for fold in split(few, SplitKind.RANDOM, taught=again).folds:
        assert fold.train.tolist() == sorted(set(range(len(TABLE))) - set(fold.test.tolist()))


def test_nobody_learns_in_another_table_from_the_draws_of_a_held_out_task() -> None:
    draws = np.array([f"workload-{i // 2}" for i in range(len(TABLE))])
    placed = replace(TABLE.tasks, draws=draws)
    few = placed.rows(np.arange(0, len(TABLE), 3))
    for kind in (SplitKind.MODEL, SplitKind.ACCELERATOR, SplitKind.BOTH, SplitKind.WORKLOAD):
        for fold in split(few, kind, taught=placed).folds:
            assert not set(draws[fold.train]) & set(draws[::3][fold.test])


def test_splits_are_the_same_every_time_and_the_random_one_follows_its_seed() -> None:
    for kind in SplitKind:
        first, second = split(TABLE.tasks, kind), split(TABLE.tasks, kind)
        assert [f.test.tolist() for f in first.folds] == [f.test.tolist() for f in second.folds]
    other = split(TABLE.tasks, SplitKind.RANDOM, seed=1)
    assert other.folds[0].test.tolist() != split(TABLE.tasks, SplitKind.RANDOM).folds[0].test.tolist()


def test_one_group_alone_cannot_be_split() -> None:
    tasks = replace(TABLE.tasks, model=np.full(len(TABLE), "Qwen/Qwen3-8B"))
    assert split(tasks, SplitKind.MODEL).folds == ()


@settings(max_examples=50, deadline=None)
@given(
    groups=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60),
    most=st.integers(2, 6),
)
def test_nested_folds_hold_out_whole_groups_and_cover_all(groups: list[str], most: int) -> None:
    folds = grouped_folds(groups, most)
    names = np.array(groups)
    assert len(folds) == (0 if len(set(groups)) < 2 else min(most, len(set(groups))))
    for fold in folds:
        assert not set(names[fold.train]) & set(names[fold.test])
    if folds:
        assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == list(range(len(groups)))
