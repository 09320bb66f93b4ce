"""What pods tolerate, and what placement takes for granted that they do: a pod that tolerates less stays pending."""

import pytest

from choices import pool
from controller_passes import workload as manifest
from metainf.manifests import parse_workload
from metainf.placement import SPOT_TAINT_KEYS, tolerates, untolerated_taints
from metainf.pools import CapacityType, Taint
from metainf_operator.roller import _tolerations

ASKED = {"key": "dedicated", "operator": "Equal", "value": "llm", "effect": "NoSchedule"}


@pytest.mark.parametrize("capacity_type", [CapacityType.ON_DEMAND, CapacityType.SPOT])
@pytest.mark.parametrize(
    ("taint", "spot_alone"),
    [
        pytest.param(Taint("nvidia.com/gpu", "present"), False, id="of the accelerator"),
        pytest.param(Taint("dedicated", "llm"), False, id="that the user tolerates"),
        *(pytest.param(Taint(key, "true"), True, id=key) for key in SPOT_TAINT_KEYS),
    ],
)
def test_pods_tolerate_what_placement_takes_for_granted(
    taint: Taint, spot_alone: bool, capacity_type: CapacityType
) -> None:
    if spot_alone and capacity_type is not CapacityType.SPOT:
        return
    where = pool(taints=(taint,), capacity_type=capacity_type)
    asked = parse_workload(manifest(placement={"spot": "Allow", "tolerations": [ASKED]}))
    assert untolerated_taints(where, asked.workload.placement) == ()
    assert any(tolerates(each, taint.key, taint.value, taint.effect) for each in _tolerations(asked, where))


@pytest.mark.parametrize(
    "taint",
    [
        pytest.param(Taint("nvidia.com/gpu", "present", "NoExecute"), id="of the accelerator, and it evicts"),
        pytest.param(Taint(SPOT_TAINT_KEYS[0], "spot", "NoExecute"), id="of spot, and it evicts"),
        pytest.param(Taint("amd.com/gpu"), id="of another accelerator"),
        pytest.param(Taint("maintenance"), id="of anything else"),
    ],
)
def test_pods_tolerate_nothing_more_unasked(taint: Taint) -> None:
    where = pool(taints=(taint,), capacity_type=CapacityType.SPOT)
    asked = parse_workload(manifest(placement={"spot": "Allow"}))
    assert not any(tolerates(each, taint.key, taint.value, taint.effect) for each in _tolerations(asked, where))
