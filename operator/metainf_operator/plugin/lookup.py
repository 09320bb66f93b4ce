"""A workload on the cluster, and the records of its decisions, as `explain`, `diff`, `pin` and `history` read them.

Separate from the operator's `records`, which writes them and knows most by their metadata alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from metainf.errors import InvalidWorkloadError
from metainf.manifests import WORKLOAD_LABEL, Decision, DecisionPhase, duration_s, parse_decision
from metainf.manifests.reader import Reader
from metainf.manifests.traffic import read_slo
from metainf.workload import Slo
from metainf_operator.api_errors import NotFoundError
from metainf_operator.cluster_api import ClusterApi, JsonObject, Selector
from metainf_operator.resources import INFERENCE_DECISION, INFERENCE_WORKLOAD
from metainf_operator.states import EPOCH, DecisionState, WorkloadState, project_decision, project_workload

__all__ = ["History", "Record", "find_workload", "read_history"]


@dataclass(frozen=True, slots=True)
class Record:
    """A whole decision. `inputs` are the recorded inputs by their paths, the digest left out.

    `deadline_s` is a batch's, None for other traffic.
    """

    state: DecisionState
    decision: Decision
    slo: Slo
    inputs: tuple[tuple[str, str], ...]
    deadline_s: float | None

    @property
    def name(self) -> str:
        """The decision's name."""
        return self.decision.head.name

    @property
    def digits(self) -> str:
        """The end of the name, which tells it from the workload's others."""
        return self.name.removeprefix(f"{self.decision.head.workload}-")

    @property
    def made_at(self) -> datetime:
        """When it was written."""
        return self.decision.head.created_at or EPOCH

    @property
    def proposed(self) -> bool:
        """Whether it waits for approval."""
        return self.state.activated_at is None and self.decision.phase is DecisionPhase.PROPOSED

    @property
    def phase(self) -> str:
        """What became of it, in one word."""
        if self.state.activated_at is not None:
            return DecisionPhase.ACTIVE.value
        if self.decision.phase is not None and self.decision.phase is not DecisionPhase.ACTIVE:
            return self.decision.phase.value
        return DecisionPhase.REFUSED.value if self.decision.refusal is not None else DecisionPhase.SUPERSEDED.value

    @property
    def outcome(self) -> str:
        """The chosen candidate, or the limit of the refusal."""
        if self.decision.chosen is not None:
            return str(self.decision.chosen.candidate)
        return "" if self.decision.refusal is None else self.decision.refusal.limit


@dataclass(frozen=True, slots=True)
class History:
    """The decisions of a workload, the latest first, and the names of those that cannot be read."""

    workload: WorkloadState
    records: tuple[Record, ...]
    unreadable: tuple[str, ...] = ()

    @property
    def active(self) -> Record | None:
        """The decision in force: the one that was activated last."""
        active = [r for r in self.records if r.state.activated_at is not None]
        return max(active, key=lambda r: (r.state.activated_at or EPOCH, r.name), default=None)

    @property
    def previous(self) -> Record | None:
        """The latest decision beside the one in force, that chose something where there is one."""
        others = [r for r in self.records if r != self.active]
        chose = [r for r in others if r.decision.chosen is not None and not r.proposed]
        return next(iter([*chose, *others]), None)

    @property
    def proposal(self) -> Record | None:
        """The proposal that waits: the latest record, where it is one."""
        latest = next(iter(self.records), None)
        return latest if latest is not None and latest.proposed else None

    def named(self, name: str) -> Record:
        """The decision of this name, or whose name alone starts or ends with it.

        Raises
        ------
        InvalidWorkloadError
            None, or more than one, is meant.
        """
        for record in self.records:
            if record.name == name:
                return record
        meant = [r for r in self.records if r.digits.startswith(name) or r.digits.endswith(name)]
        if len(meant) == 1:
            return meant[0]
        known = ", ".join(r.name for r in (meant or self.records)) or "none"
        what = f"{name} means several decisions" if meant else f"no decision {name}"
        raise InvalidWorkloadError(f"{self.workload.key}: {what}; name one of: {known}")


async def find_workload(cluster: ClusterApi, name: str, namespace: str) -> WorkloadState:
    """The workload. InvalidWorkloadError: it is not there, or MetaInf is not installed."""
    try:
        return project_workload(await cluster.get(INFERENCE_WORKLOAD, name, namespace))
    except NotFoundError as error:
        if "could not find the requested resource" in str(error):
            raise
        raise InvalidWorkloadError(
            f"no InferenceWorkload {name} in namespace {namespace}: -n names another; "
            "kubectl get inferenceworkloads -A lists all"
        ) from error


async def read_history(cluster: ClusterApi, workload: WorkloadState) -> History:
    """The workload's own decisions; those of an earlier workload of its name are left out."""
    unreadable: list[str] = []

    def project(body: JsonObject) -> Record | None:
        owners = body["metadata"].get("ownerReferences") or ()
        if workload.uid not in [owner.get("uid") for owner in owners]:
            return None
        record = _record(body)
        if record is None:
            unreadable.append(body["metadata"]["name"])
        return record

    listing = await cluster.list(
        INFERENCE_DECISION,
        project=project,
        namespace=workload.key.namespace,
        selector=Selector(labels=f"{WORKLOAD_LABEL}={workload.key.name}"),
    )
    latest_first = sorted(listing.items, key=lambda r: (r.made_at, r.name), reverse=True)
    return History(workload, tuple(latest_first), tuple(sorted(unreadable)))


def _record(body: JsonObject) -> Record | None:
    """The record; None for one of another version, or one that somebody damaged."""
    state = project_decision(body)
    if state is None:
        return None
    inputs = (body.get("spec") or {}).get("inputs") or {}
    flat = {path: value for path, value in _flattened(inputs, "") if path != "digest"}
    deadline = flat.get("traffic.batch.deadline")
    try:
        decision = parse_decision(body)
        slo = read_slo(Reader.of(inputs.get("limits"), "spec.inputs.limits", None))
        deadline_s = None if deadline is None else duration_s(deadline)
    except ValueError:
        return None
    return Record(state, decision, slo, tuple(flat.items()), deadline_s)


def _flattened(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _flattened(part, f"{path}.{name}" if path else str(name))
    else:
        yield path, str(value)
