"""What of a wish may be written to a node: others' labels are left alone, and ours are kept to the wish."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelled_node import LabelledNode
from metainf_operator.node_facts.ownership import FIELD_MANAGER, plan_labels

_PRODUCT, _COUNT, _FAMILY = "nvidia.com/gpu.product", "nvidia.com/gpu.count", "nvidia.com/gpu.family"
_OWN = "metainf.dev/gpu.pcie-width"
_WISH = {_PRODUCT: "NVIDIA-L4", _COUNT: "2", _FAMILY: "ada-lovelace", _OWN: "16"}
_NFD_LIST = "nfd.node.kubernetes.io/feature-labels"


def _settle(node: LabelledNode, wish: Mapping[str, str]) -> tuple[str, ...]:
    plan = plan_labels(wish, node.body())
    if plan.apply is not None:
        node.apply(plan.apply, FIELD_MANAGER)
    assert plan_labels(wish, node.body()).apply is None, "a second look finds something to do"
    return plan.left


def test_a_node_without_labels_gets_them() -> None:
    node = LabelledNode({"kubernetes.io/hostname": "node-1"})
    assert _settle(node, _WISH) == ()
    assert node.labels == {"kubernetes.io/hostname": "node-1", **_WISH}


def test_what_is_no_longer_wished_goes_and_nothing_else() -> None:
    node = LabelledNode({"kubernetes.io/hostname": "node-1"})
    _settle(node, _WISH)
    _settle(node, {})
    assert node.labels == {"kubernetes.io/hostname": "node-1"}


def test_a_label_that_somebody_removed_comes_back() -> None:
    node = LabelledNode()
    _settle(node, _WISH)
    node.remove(_PRODUCT)
    _settle(node, _WISH)
    assert node.labels == _WISH


@pytest.mark.parametrize("key", [_PRODUCT, _COUNT, "nvidia.com/gpu.memory"])
def test_who_describes_the_gpus_is_left_alone_with_all_of_the_vendors_labels(key: str) -> None:
    node = LabelledNode({key: "else"}, "nfd-master")
    assert set(_settle(node, _WISH)) == {_PRODUCT, _COUNT, _FAMILY}
    assert node.labels == {key: "else", _OWN: "16"}
    assert plan_labels(_WISH, node.body()).others == (("nfd-master",) if key in _WISH else ())


def test_the_timestamp_of_gpu_feature_discovery_is_enough() -> None:
    node = LabelledNode({"nvidia.com/gfd.timestamp": "1594644571"}, "nfd-master")
    assert set(_settle(node, _WISH)) == {_PRODUCT, _COUNT, _FAMILY}


def test_one_label_of_somebody_else_is_left_and_the_others_are_written() -> None:
    node = LabelledNode({_FAMILY: "by-hand", _OWN: "8"}, "kubectl-edit")
    assert set(_settle(node, _WISH)) == {_FAMILY, _OWN}
    assert node.labels == {_FAMILY: "by-hand", _OWN: "8", _PRODUCT: "NVIDIA-L4", _COUNT: "2"}
    assert plan_labels(_WISH, node.body()).others == ("kubectl-edit",)


def test_a_label_of_somebody_else_with_our_value_stays_theirs() -> None:
    node = LabelledNode({_FAMILY: "ada-lovelace"}, "kubectl-label")
    assert _settle(node, _WISH) == (_FAMILY,)
    _settle(node, {})
    assert node.labels == {_FAMILY: "ada-lovelace"}


def test_when_gpu_feature_discovery_arrives_later_no_label_is_away_for_a_moment() -> None:
    node = LabelledNode()
    _settle(node, _WISH)
    # It takes over what it has another value for, and lists the rest as its own.
    theirs = {_PRODUCT: "NVIDIA-L4-SHARED", _COUNT: "2", _FAMILY: "ada-lovelace"}
    node.update(theirs, "nfd-master")
    node.annotations[_NFD_LIST] = ",".join(theirs)
    assert node.owners[_COUNT] == {FIELD_MANAGER}
    assert set(_settle(node, {**_WISH, _COUNT: "1"})) == set(theirs)
    assert node.labels == {**theirs, _OWN: "16"}
    # What it changes from now on is its own too.
    node.update({_COUNT: "3"}, "nfd-master")
    _settle(node, _WISH)
    assert node.labels[_COUNT] == "3"


def test_what_was_updated_under_our_name_without_an_apply_is_not_ours() -> None:
    body = LabelledNode({_PRODUCT: "NVIDIA-L4"}).body()
    body["managedFields"][0] |= {"manager": FIELD_MANAGER, "operation": "Update"}
    assert _PRODUCT in plan_labels(_WISH, body).left


def test_a_node_without_managed_fields_is_read() -> None:
    assert plan_labels(_WISH, {"name": "node-1"}).apply == _WISH
    assert plan_labels({}, {"name": "node-1", "labels": {"a": "b"}}).apply is None


_KEYS = st.sampled_from([_PRODUCT, _COUNT, _FAMILY, _OWN, "nvidia.com/gfd.timestamp", "team", "metainf.dev/gpu.x"])
_VALUES = st.sampled_from(["a", "b", "c"])
_labels = st.dictionaries(_KEYS, _VALUES, max_size=5)
_wishes = st.dictionaries(st.sampled_from([_PRODUCT, _COUNT, _FAMILY, _OWN]), _VALUES, max_size=4)


@given(st.lists(st.tuples(st.sampled_from(["nfd-master", "kubectl"]), _labels)), st.lists(_wishes, min_size=1))
def test_nothing_of_others_ever_changes_and_a_second_look_finds_nothing_to_do(
    updates: list[tuple[str, dict[str, str]]], wishes: list[dict[str, str]]
) -> None:
    node = LabelledNode()
    for number, wish in enumerate(wishes):
        for manager, labels in updates[number::2]:
            node.update(labels, manager)
        foreign = {k: v for k, v in node.labels.items() if node.owners[k] != {FIELD_MANAGER}}
        _settle(node, wish)
        assert foreign.items() <= node.labels.items()
        for key, value in wish.items():
            if key == _OWN and key not in foreign:
                assert node.labels[key] == value
