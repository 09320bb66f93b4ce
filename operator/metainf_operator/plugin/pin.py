"""`kubectl metainf pin` and `unpin`: the patch of a workload's policy, for Git or for the live object.

Separate because it is the one thing here that may write, and only when told to by --apply.

Why the candidate and not the decision's name: the same manifest then works on a cluster that has never seen the
decision, and after its record is gone. Approving a proposal so finds the proposal's own record, since neither mode
nor pin is part of what a decision is named after.
"""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

import yaml

from metainf.cli.console import note, printable
from metainf.errors import InvalidWorkloadError
from metainf.layouts import Layout
from metainf.manifests import API_VERSION, WORKLOAD_KIND, Chosen, PolicyMode
from metainf_operator.cluster_api import ClusterApi, JsonObject
from metainf_operator.ledger import WorkloadKey
from metainf_operator.plugin.lookup import History, Record, find_workload, read_history
from metainf_operator.resources import INFERENCE_WORKLOAD
from metainf_operator.states import WorkloadState

__all__ = ["run", "run_unpin"]

# Source: argo-cd.readthedocs.io, user-guide/resource_tracking; fluxcd.io/flux/components/kustomize and /helm.
_GITOPS = {
    "argocd.argoproj.io/tracking-id": "Argo CD",
    "kustomize.toolkit.fluxcd.io/name": "Flux",
    "helm.toolkit.fluxcd.io/name": "Flux",
}


async def run(args: argparse.Namespace, cluster: ClusterApi) -> int:
    """Pin."""
    workload = await find_workload(cluster, args.workload, args.namespace)
    history = await read_history(cluster, workload)
    record = history.named(args.decision) if args.decision else history.proposal or history.active
    chosen = _pinnable(history, record)
    patch = _pin_patch(workload, chosen)
    what = f"{chosen.candidate} ({'' if record is None else record.name})"
    if args.apply:
        await _apply(cluster, workload, patch)
        print(f"pinned {workload.key} to {printable(what)}")
    else:
        _print(workload, patch, f"pins {workload.key} to {what}")
    return 0


async def run_unpin(args: argparse.Namespace, cluster: ClusterApi) -> int:
    """Take the pin away."""
    workload = await find_workload(cluster, args.workload, args.namespace)
    policy = None if workload.manifest is None else workload.manifest.policy
    if policy is not None and policy.mode is not PolicyMode.PINNED:
        note(f"{workload.key} is not pinned (policy.mode {policy.mode}): nothing to do")
        return 0
    patch: JsonObject = {"mode": args.mode, "pinned": None}
    if args.apply:
        await _apply(cluster, workload, patch)
        print(f"unpinned {workload.key}: policy.mode is {args.mode}")
    else:
        _print(workload, patch, f"takes the pin of {workload.key} away: null removes the field")
    return 0


def _pinnable(history: History, record: Record | None) -> Chosen:
    key = history.workload.key
    if record is None:
        raise InvalidWorkloadError(
            f"{key}: no decision is in force and none waits for approval; kubectl metainf history {key.name} lists "
            "what there is to name"
        )
    if record.decision.chosen is None:
        raise InvalidWorkloadError(f"{key}: {record.name} is a refusal ({record.outcome}): name a decision that chose")
    return record.decision.chosen


def _pin_patch(workload: WorkloadState, chosen: Chosen) -> JsonObject:
    """The policy's fields; a pin of the other form, or an older candidate's fields, must not stay beside it."""
    pin = None if workload.manifest is None else workload.manifest.policy.pinned
    name = chosen.candidate
    layout = _layout(chosen.layout)
    if pin is None or pin.candidate is None:
        layout = short_layout(chosen.layout)
    candidate = {"pool": name.pool, "method": name.method, "layout": layout, "replicas": name.replicas}
    old = {"decision": None} if pin is not None and pin.decision is not None else {}
    return {"mode": PolicyMode.PINNED.value, "pinned": {"candidate": candidate, **old}}


def short_layout(layout: Layout) -> dict[str, int | bool]:
    """The layout's fields that differ from the CRD's defaults; at least one."""
    usual = _layout(Layout())
    return {field: value for field, value in _layout(layout).items() if value != usual[field]} or {"tensorParallel": 1}


def _layout(layout: Layout) -> dict[str, int | bool]:
    return {
        "tensorParallel": layout.tensor_parallel,
        "pipelineParallel": layout.pipeline_parallel,
        "dataParallel": layout.data_parallel,
        "expertParallel": layout.expert_parallel,
    }


async def _apply(cluster: ClusterApi, workload: WorkloadState, policy: JsonObject) -> None:
    key = workload.key
    # The uid is a precondition: another workload of this name is not the one that was looked at.
    patch = {"metadata": {"uid": workload.uid}, "spec": {"policy": policy}}
    patched = await cluster.patch_merge(INFERENCE_WORKLOAD, key.name, patch, key.namespace)
    manager = _managed_by(patched.get("metadata") or {})
    if manager is not None:
        note(f"{manager} manages {key}: put the same patch into Git, or it takes this back")


def _managed_by(metadata: Mapping[str, Any]) -> str | None:
    marks = {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}
    return next((name for mark, name in _GITOPS.items() if mark in marks), None)


def _print(workload: WorkloadState, policy: JsonObject, what: str) -> None:
    key: WorkloadKey = workload.key
    manifest = {
        "apiVersion": API_VERSION,
        "kind": WORKLOAD_KIND,
        "metadata": {"name": key.name, "namespace": key.namespace},
        "spec": {"policy": policy},
    }
    print(f"# This {printable(what)}.")
    print("# Merge it into the manifest in Git, or patch the live object with it:")
    print(f"# kubectl patch inferenceworkload {key.name} -n {key.namespace} --type merge --patch-file FILE")
    yaml.safe_dump(manifest, sys.stdout, sort_keys=False, allow_unicode=True, width=100)
