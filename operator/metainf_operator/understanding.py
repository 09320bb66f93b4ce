"""Makes sense of a workload's spec: the model behind its name, and the candidate that it is pinned to.

Separate from the pass, since most of what users get wrong comes out here, before anything is decided: each mistake gets
a fault and a sentence to act on. It writes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from metainf.candidates import CandidateName
from metainf.errors import HubError, InvalidWorkloadError, UnknownModelError
from metainf.manifests import InferenceWorkload, ObservedTraffic, parse_decision
from metainf_operator.api_errors import NotFoundError
from metainf_operator.children import SHUTDOWN_S
from metainf_operator.cluster_api import ClusterApi
from metainf_operator.conditions import Fault
from metainf_operator.models import ConfigMapMissingError, KnownModel, Models
from metainf_operator.pod_template import pod_template_conflicts
from metainf_operator.resources import INFERENCE_DECISION
from metainf_operator.world import WorkloadState, World

__all__ = ["TroubleError", "Understood", "understand"]

_HUB_LOOK_S = 60.0
_MISSING_LOOK_S = 15.0  # a ConfigMap or a decision that somebody is about to apply


class TroubleError(Exception):
    """No decision can be made for this workload now; the fault says why, in a condition and without a crash."""

    def __init__(self, fault: Fault, message: str, retry_s: float | None) -> None:
        super().__init__(message)
        self.fault = fault
        self.retry_s = retry_s


@dataclass(frozen=True, slots=True)
class Understood:
    """A workload whose spec makes sense, and its model.

    `observed` is the traffic to decide by in place of the declared; who makes the decision adds it.
    """

    workload: InferenceWorkload
    model: KnownModel
    pinned: CandidateName | None
    observed: ObservedTraffic | None = None

    def with_pools_known_as(self, names: Mapping[str, str]) -> "Understood":
        """The same for pools that go by other names: each of today's that the spec or a pin says, by what it goes by.

        A name that the spec says stays allowed: it may be the one that the pool goes by.
        """
        if not names:
            return self
        workload, pin = self.workload, self.workload.policy.pinned
        placement = workload.workload.placement
        pools = placement.pools | {names[name] for name in placement.pools if name in names}
        if pin is not None:
            pin = replace(pin, candidate=_known_as(pin.candidate, names))
        return replace(
            self,
            workload=replace(
                workload,
                workload=replace(workload.workload, placement=replace(placement, pools=pools)),
                policy=replace(workload.policy, pinned=pin),
            ),
            pinned=_known_as(self.pinned, names),
        )


def _known_as(candidate: CandidateName | None, names: Mapping[str, str]) -> CandidateName | None:
    return None if candidate is None else replace(candidate, pool=names.get(candidate.pool, candidate.pool))


async def understand(
    state: WorkloadState, world: World, models: Models, cluster: ClusterApi, *, resync_s: float
) -> Understood:
    """What a workload asks for; `resync_s` is the wait where nothing tells that the mistake was put right.

    Raises
    ------
    TroubleError
        The spec makes no sense, or what it names is not there.
    """
    workload = state.manifest
    if workload is None:
        raise TroubleError(Fault.INVALID_SPEC, state.error or "the spec cannot be read", None)
    resources = sorted({r.pool.resource_name for r in world.inventory.pools if r.pool.resource_name})
    conflicts = pod_template_conflicts(workload.engine.pod_template, resources, shutdown_s=SHUTDOWN_S)
    if conflicts:
        raise TroubleError(Fault.OVERRIDES_DECISION, "; ".join(conflicts), None)
    model = await _model(workload, models, resync_s)
    return Understood(workload, model, await _pinned(workload, cluster))


async def _model(workload: InferenceWorkload, models: Models, resync_s: float) -> KnownModel:
    try:
        return await models.find(workload)
    except UnknownModelError as exc:
        raise TroubleError(Fault.UNKNOWN_MODEL, str(exc), resync_s) from exc
    except InvalidWorkloadError as exc:
        raise TroubleError(Fault.INVALID_SPEC, str(exc), resync_s) from exc
    except HubError as exc:
        raise TroubleError(Fault.HUB_UNREACHABLE, str(exc), _HUB_LOOK_S) from exc
    except ConfigMapMissingError as exc:
        raise TroubleError(Fault.CONFIG_MAP_MISSING, str(exc), _MISSING_LOOK_S) from exc


async def _pinned(workload: InferenceWorkload, cluster: ClusterApi) -> CandidateName | None:
    pin = workload.policy.pinned
    if pin is None or pin.decision is None:
        return None
    try:
        decision = parse_decision(await cluster.get(INFERENCE_DECISION, pin.decision, workload.namespace))
    except (NotFoundError, InvalidWorkloadError) as exc:
        message = f"policy.pinned.decision names {pin.decision}, which is not there: name one of this namespace"
        raise TroubleError(Fault.PIN_NOT_FOUND, message, _MISSING_LOOK_S) from exc
    if decision.chosen is None:
        message = f"policy.pinned.decision names {pin.decision}, which is a refusal: name one that chose"
        raise TroubleError(Fault.PIN_NOT_FOUND, message, None)
    return decision.chosen.candidate
