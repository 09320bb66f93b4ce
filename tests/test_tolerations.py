"""What pods tolerate, and what placement takes for granted that they do: a pod that tolerates less stays pending."""

import pytest

from choices import pool
from controller_passes import workload as manifest
from metainf.manifests import parse_workload
from metainf.placement import SPOT_TAINT_KEYS, evicting_taints, tolerates, untolerated_taints
from metainf.pools import CapacityType, Taint
from metainf.workload import PlacementLimits, Toleration
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


MINE = Toleration("maintenance", "Exists")


@pytest.mark.parametrize(
    ("taint", "of_the_workload", "of_its_pods", "goes"),
    [
        pytest.param(Taint("maintenance"), (), (), False, id="it keeps new pods out, and sends none away"),
        pytest.param(Taint("maintenance", effect="NoExecute"), (), (), True, id="it sends pods away"),
        pytest.param(Taint("maintenance", effect="NoExecute"), (MINE,), (MINE,), False, id="unless they tolerate it"),
        pytest.param(Taint("maintenance"), (MINE,), (MINE,), False, id="it is tolerated"),
        pytest.param(Taint("maintenance"), (), (MINE,), True, id="its toleration was taken back"),
        pytest.param(Taint("maintenance"), (MINE,), (), False, id="its toleration came later"),
        pytest.param(Taint("maintenance", effect="PreferNoSchedule"), (), (MINE,), False, id="it keeps nobody out"),
        pytest.param(Taint("nvidia.com/gpu"), (), (Toleration("nvidia.com/gpu", "Exists"),), False, id="its own"),
    ],
)
def test_pods_that_run_have_to_go_for_a_taint_that_evicts_or_whose_toleration_was_taken_back(
    taint: Taint, of_the_workload: tuple[Toleration, ...], of_its_pods: tuple[Toleration, ...], goes: bool
) -> None:
    limits = PlacementLimits(tolerations=of_the_workload)
    found = evicting_taints(pool(taints=(taint,)), limits, of_its_pods)
    assert found == ((taint.key,) if goes else ())
