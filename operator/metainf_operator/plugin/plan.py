"""`kubectl metainf plan`: the decision that the operator would take on this cluster, for files or for a workload.

Separate from `planner`, which decides: this reads manifests, sets them over what the cluster has, and prints.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from metainf.cli import BAD_INPUT, CHOSEN, REFUSED
from metainf.cli.console import labelled, note, show
from metainf.cli.plan import write_plans
from metainf.cli.predictors import chosen_predictor
from metainf.errors import InvalidWorkloadError
from metainf.manifests import (
    DECISION_KIND,
    POOL_KIND,
    WORKLOAD_KIND,
    InferenceWorkload,
    is_kind,
    parse_pool,
    parse_workload,
    read_documents,
    standing_pool,
)
from metainf.pools import NodePool
from metainf_operator.cluster_api import ClusterApi, JsonObject
from metainf_operator.cluster_decorator import ClusterDecorator
from metainf_operator.ledger import WorkloadKey
from metainf_operator.plugin.inventory import read_namespace, read_world
from metainf_operator.plugin.lookup import find_workload
from metainf_operator.plugin.planner import Planner, Proposal
from metainf_operator.resources import CONFIG_MAP, INFERENCE_DECISION, Resource
from metainf_operator.settings import OperatorSettings
from metainf_operator.world import PoolState, WorkloadState, World

__all__ = ["run"]


@dataclass(frozen=True, slots=True)
class _Document:
    """A manifest, the file that it stands in, and its namespace."""

    file: str
    manifest: Mapping[str, Any]
    namespace: str

    @property
    def name(self) -> str:
        metadata = self.manifest.get("metadata")
        return str(metadata.get("name") or "") if isinstance(metadata, Mapping) else ""

    @property
    def title(self) -> str:
        return f"{self.file}: {self.manifest.get('kind', 'document')} {self.name}".rstrip()


class _FilesFirst(ClusterDecorator):
    """The cluster as it were with the files applied, for the two kinds that planning reads one by one."""

    def __init__(self, inner: ClusterApi, documents: Sequence[_Document]) -> None:
        super().__init__(inner)
        self._files: dict[tuple[object, str | None, str], JsonObject] = {
            (document.manifest.get("kind"), document.namespace, document.name): dict(document.manifest)
            for document in documents
        }

    async def get(
        self, resource: Resource, name: str, namespace: str | None = None, *, metadata_only: bool = False
    ) -> JsonObject:
        """As `ClusterApi.get`, a file's object first."""
        ours = (
            self._files.get((resource.kind, namespace, name)) if resource in (CONFIG_MAP, INFERENCE_DECISION) else None
        )
        return await super().get(resource, name, namespace, metadata_only=metadata_only) if ours is None else ours


async def run(args: argparse.Namespace, cluster: ClusterApi) -> int:
    """Plan what is asked; what cannot be read does not stop the others."""
    if bool(args.filename) == (args.workload is not None):
        raise InvalidWorkloadError("plan takes either -f FILE or the name of a workload: kubectl metainf plan --help")
    settings = _settings(args)
    documents = _documents(args)
    pools = _pools(args.pools)
    if args.workload is not None:
        await find_workload(cluster, args.workload, args.namespace)  # says at once that it is not there
    world = await (
        read_namespace(cluster, args.namespace, pools) if args.pools else read_world(cluster, args.opencost_url)
    )
    _use_pools_of_the_files(world, documents, bool(args.pools))
    planner = Planner(
        _FilesFirst(cluster, documents),
        world,
        chosen_predictor(args.predictor),
        settings,
        now=lambda: datetime.now(UTC),
    )
    return await _answer(planner, _asked(args, documents, world), args.output)


async def _answer(planner: Planner, asked: Sequence[tuple[str, WorkloadState]], output: str) -> int:
    proposals: list[Proposal] = []
    failed = False
    for title, state in asked:
        try:
            proposals.append(await planner.propose(state))
        except InvalidWorkloadError as error:
            note(f"{title}: {error}")
            failed = True
    _print(proposals, output)
    if failed:
        return BAD_INPUT
    return CHOSEN if all(each.serves for each in proposals) else REFUSED


def _settings(args: argparse.Namespace) -> OperatorSettings:
    """What of the operator's settings a choice depends on, as it is told; the rest does not come in."""
    settings = OperatorSettings(hub=not args.no_hub, engine_version=args.engine_version)
    most = args.max_concurrent_switches
    if most is None:
        return settings
    if most < 1:
        raise InvalidWorkloadError(f"--max-concurrent-switches must be 1 or more, got {most}")
    return replace(settings, max_concurrent_switches=most)


def _print(proposals: Sequence[Proposal], output: str) -> None:
    if output != "table":
        write_plans([each.plan for each in proposals], output, sys.stdout)
        for each in proposals:
            workload = each.plan.workload
            note(f"{workload.namespace}/{workload.name}: the operator {each.action}")
        return
    for number, each in enumerate(proposals):
        if number:
            show([""])
        write_plans([each.plan], output, sys.stdout)
        show([labelled("Operator", each.action)])


def _asked(args: argparse.Namespace, documents: Sequence[_Document], world: World) -> list[tuple[str, WorkloadState]]:
    """What to plan, by how messages call it; states from files stand in the world as if they were applied."""
    if args.workload is not None:
        key = WorkloadKey(args.namespace, args.workload)
        state = world.workloads.get(key)
        if state is None:
            raise InvalidWorkloadError(f"{key} was deleted meanwhile")
        return [(str(key), state)]
    workloads = [d for d in documents if is_kind(d.manifest, WORKLOAD_KIND)]
    if not workloads:
        raise InvalidWorkloadError(f"{', '.join(args.filename)}: no {WORKLOAD_KIND} in it")
    now = datetime.now(UTC)
    return [(document.title, _applied(document, world, now)) for document in workloads]


def _applied(document: _Document, world: World, now: datetime) -> WorkloadState:
    """The workload's state if the file were applied: what the cluster knows of it, and the file's spec."""
    key = WorkloadKey(document.namespace, document.name)
    live = world.workloads.get(key)
    metadata: dict[str, Any] = {"name": document.name, "namespace": document.namespace}
    if live is not None:
        metadata["uid"] = live.uid
    manifest = {k: v for k, v in document.manifest.items() if k != "status"} | {"metadata": metadata}
    parsed: InferenceWorkload | None = None
    error: str | None = None
    try:
        parsed = parse_workload(manifest)
    except InvalidWorkloadError as problem:
        error = str(problem)
    if live is None:
        state = WorkloadState(key, "", 1, now, False, parsed, error, "{}")
    else:
        if parsed is not None:
            parsed = _with_history(parsed, live)
        generation = live.generation if parsed is None else parsed.generation
        state = replace(live, manifest=parsed, error=error, generation=generation)
    world.workloads.upsert(key, state)
    return state


def _with_history(parsed: InferenceWorkload, live: WorkloadState) -> InferenceWorkload:
    """The file's workload with the age and generation of the live one; a spec that differs is a new generation."""
    aged = replace(parsed, created_at=live.created_at, generation=live.generation, deleting=live.deleting)
    old = live.manifest
    same = old is not None and replace(aged, created_at=old.created_at, generation=old.generation) == old
    return aged if same else replace(aged, generation=live.generation + 1)


def _documents(args: argparse.Namespace) -> list[_Document]:
    documents: list[_Document] = []
    for file in args.filename:
        for manifest in _read(file):
            metadata = manifest.get("metadata")
            metadata = metadata if isinstance(metadata, Mapping) else {}
            namespace = metadata.get("namespace") or args.namespace
            document = _Document("standard input" if file == "-" else file, manifest, str(namespace))
            if args.namespace_given and namespace != args.namespace and not is_kind(manifest, POOL_KIND):
                raise InvalidWorkloadError(
                    f"{document.title}: it stands in namespace {namespace}, and -n says {args.namespace}: drop one"
                )
            if not _used(document):
                note(f"{document.title}: not planned, since it is no {WORKLOAD_KIND}")
            documents.append(document)
    return documents


def _used(document: _Document) -> bool:
    kinds = (WORKLOAD_KIND, POOL_KIND, DECISION_KIND)
    return any(is_kind(document.manifest, kind) for kind in kinds) or document.manifest.get("kind") == CONFIG_MAP.kind


def _read(file: str) -> tuple[Mapping[str, Any], ...]:
    name = "standard input" if file == "-" else file
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidWorkloadError(f"reading {name}: {reason}") from error
    return read_documents(text, name)


def _pools(files: Sequence[str]) -> tuple[NodePool, ...]:
    """Pools from files, as an operator without access to nodes has them."""
    pools: dict[str, NodePool] = {}
    for file in files:
        for manifest in _read(file):
            if not is_kind(manifest, POOL_KIND):
                continue
            try:
                pool = standing_pool(parse_pool(manifest))
            except InvalidWorkloadError as error:
                raise InvalidWorkloadError(f"{file}: {error}") from error
            pools[pool.name] = pool
    if files and not pools:
        raise InvalidWorkloadError(f"{', '.join(files)}: no {POOL_KIND} in it")
    return tuple(pools[name] for name in sorted(pools))


def _use_pools_of_the_files(world: World, documents: Sequence[_Document], fixed: bool) -> None:
    """AcceleratorPools in the files count as applied; beside --pools, which are all there are, they do not."""
    for document in documents:
        if not is_kind(document.manifest, POOL_KIND):
            continue
        if fixed:
            note(f"{document.title}: passed over, since --pools says which pools there are")
            continue
        try:
            pool = parse_pool(document.manifest)
        except InvalidWorkloadError as error:
            raise InvalidWorkloadError(f"{document.title}: {error}") from error
        world.pools.upsert(pool.name, PoolState(pool.name, "", pool.generation, pool, None, "{}"))
        world.inventory_changed()
