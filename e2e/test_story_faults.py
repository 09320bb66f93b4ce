"""What goes wrong gets a condition that says what to do, and harms nobody else."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from e2e.cluster import gpu_node
from e2e.kube import ROOT
from e2e.operator_process import OperatorProcess, Operators
from e2e.story import Story, workload
from e2e.waiting import always, eventually

pytestmark = pytest.mark.e2e

_UNHEARD_OF = {"id": "nobody/has-heard-of-this"}


@pytest.fixture
def bystander(story: Story) -> Iterator[Story]:
    """Somebody else's workload that is well before, and has to be afterwards."""
    story.node("l4", "3.40")
    story.apply(workload("bystander"))
    story.ready("bystander")
    yield story
    story.ready("bystander")


def test_a_model_that_nobody_knows_is_not_accepted(bystander: Story) -> None:
    bystander.apply(workload(model=_UNHEARD_OF))
    message = bystander.says("chat", "Accepted", "False", "UnknownModel")["message"]
    assert "nobody/has-heard-of-this" in message
    assert bystander.condition("chat", "Ready")["reason"] == "UnknownModel"
    bystander.change("chat", model={"id": "Qwen/Qwen2.5-7B-Instruct"})
    bystander.ready("chat")


def test_a_config_map_that_is_not_there_is_waited_for(bystander: Story) -> None:
    reference = {"architecture": {"configMapRef": {"name": "config", "key": "config.json"}}}
    bystander.apply(workload(model={"id": "team/own-model", **reference}))
    message = bystander.says("chat", "Ready", "Unknown", "ConfigMapMissing")["message"]
    assert "config" in message


@pytest.mark.parametrize(
    ("engine", "named"),
    [
        pytest.param({"extraArgs": ["--tensor-parallel-size=2"]}, "tensor-parallel-size", id="an argument"),
        pytest.param(
            {
                "podTemplate": {
                    "spec": {"containers": [{"name": "vllm", "resources": {"limits": {"nvidia.com/gpu": "3"}}}]}
                }
            },
            "nvidia.com/gpu",
            id="a resource",
        ),
    ],
)
def test_what_would_override_the_decision_is_not_accepted(bystander: Story, engine: dict[str, Any], named: str) -> None:
    bystander.apply(workload(engine=engine))
    message = bystander.says("chat", "Accepted", "False")["message"]
    assert named in message
    assert bystander.deployments("chat") == []


def test_a_node_with_two_products_of_accelerators_is_left_out(story: Story) -> None:
    labels = {"nvidia.com/gpu.product": "NVIDIA-L4", "cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    story.node(
        gpu_node(
            f"{story.prefix}-both", product="NVIDIA-L4", memory_mib=23034, count=4, labels=labels, cost_per_hour="0.10"
        )
    )
    good = story.node("l40s", "12.00")
    story.apply(workload())
    story.ready("chat")
    assert {pod["spec"]["nodeName"] for pod in story.pods("chat")} == {good}


@pytest.mark.parametrize("price", ["-3.40", "0", "free", "NaN"])
def test_a_price_that_is_none_is_unknown_and_never_cheap(story: Story, price: str) -> None:
    story.node("l4", price)
    story.apply(workload())
    message = story.says("chat", "PricesKnown", "False", "PriceUnknown")["message"]
    assert "metainf.dev/cost-per-hour" in message
    assert story.condition("chat", "Ready")["reason"] == "PriceUnknown"
    assert story.deployments("chat") == []
    story.price(story.nodes[0], "3.40")
    story.ready("chat")


def test_a_price_in_another_currency_is_not_converted(story: Story) -> None:
    node = story.node("l4", "3.40")
    story.price(node, "3.40", **{"metainf.dev/cost-currency": "EUR"})
    story.apply(workload())
    message = story.refused("chat", "PriceUnknown")
    assert "EUR" in message or "USD" in message, message
    assert story.deployments("chat") == []
    story.change("chat", budget={"perHour": "20", "currency": "EUR"})
    assert story.ready("chat")["costPerHour"] == "0.85 EUR"


def test_pods_that_crash_leave_it_unready_and_it_recovers(story: Story) -> None:
    story.node("l4", "3.40")
    story.apply(workload(engine={"podTemplate": {"metadata": {"annotations": {"e2e.metainf.dev/crash": "true"}}}}))
    message = story.says("chat", "Ready", "False", "EngineCrashed")["message"]
    assert message.startswith("0 of 1 replicas are ready: chat-")
    assert "4 times so far" in message
    eventually(lambda: _assert_pods(story, 1))

    def assert_not_ready() -> None:
        assert story.condition("chat", "Ready")["status"] != "True"

    always(assert_not_ready, for_s=2)
    story.change("chat", engine={"podTemplate": {"metadata": {"annotations": {"e2e.metainf.dev/crash": None}}}})
    story.ready("chat")


def _assert_pods(story: Story, count: int) -> None:
    assert len(story.pods("chat")) == count


@pytest.fixture
def asks_the_hub(operators: Operators, place: Story) -> Iterator[OperatorProcess]:
    """An operator that may ask the model hub, at an address where nobody answers."""
    operators.rest()
    place.operator = operators.another(
        "operator-hub", METAINF_HUB="true", HF_ENDPOINT="http://127.0.0.1:9"
    ).start_leading()
    yield place.operator
    operators.end_others()


def test_a_hub_that_does_not_answer_is_said_and_bundled_models_run_on(
    place: Story, asks_the_hub: OperatorProcess
) -> None:
    place.node("l4", "3.40")
    place.apply(workload("unknown", model=_UNHEARD_OF))
    place.apply(workload("known"))
    place.ready("known")
    condition = place.says("unknown", "Accepted", "Unknown", "HubUnreachable", within_s=60)
    assert "nobody/has-heard-of-this" in condition["message"] or "127.0.0.1" in condition["message"]
    assert place.condition("unknown", "Ready")["status"] == "Unknown"
    asks_the_hub.assert_sane(0)


def _definition(name: str) -> dict[str, Any]:
    found = yaml.safe_load((ROOT / f"crds/metainf.dev_{name}.yaml").read_text())
    assert isinstance(found, dict)
    return found


def test_definitions_older_than_the_operator_are_said_and_all_is_well_once_they_are_new(story: Story) -> None:
    new, old = _definition("inferenceworkloads"), _definition("inferenceworkloads")
    (version,) = old["spec"]["versions"]
    del version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["confidence"]
    columns = version["additionalPrinterColumns"]
    version["additionalPrinterColumns"] = [c for c in columns if "status.confidence" not in c["jsonPath"]]
    story.cleanups.append(lambda: story.kube.apply(new))
    story.kube.apply(old)
    story.node("l4", "3.40")
    story.apply(workload())
    message = story.says("chat", "Ready", "Unknown", "CRDTooOld", within_s=45)["message"]
    assert "apply the CRDs" in message
    story.kube.apply(new)
    story.ready("chat", within_s=90)
