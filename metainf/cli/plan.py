"""`metainf plan`: the decision that the operator would take, from manifests in files.

Separate from `planning`, which decides: this reads files, finds the model and prints.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import yaml

from metainf.architecture import ModelArchitecture
from metainf.candidates import CandidateName
from metainf.cli.predictors import add_predictor_option, chosen_predictor
from metainf.cli.tables import print_plans
from metainf.engine_versions import DEFAULT_ENGINE_VERSION
from metainf.errors import InvalidWorkloadError, UnknownModelError
from metainf.manifests import (
    DECISION_KIND,
    POOL_KIND,
    WORKLOAD_KIND,
    InferenceWorkload,
    is_kind,
    parse_decision,
    parse_pool,
    parse_workload,
    read_documents,
    standing_pool,
)
from metainf.model_resolution import resolve_model
from metainf.planning import Plan, plan
from metainf.pools import NodePool
from metainf.predictors.contract import Predictor

__all__ = ["add_parser", "run", "write_plans"]

_CHOSEN, _BAD_INPUT, _REFUSED = 0, 2, 3

_EPILOG = """\
examples:
  metainf plan -f crds/examples/chat.yaml --pools crds/examples/acceleratorpools.yaml
  metainf plan -f chat.yaml --pools pools.yaml -o yaml     # the InferenceDecision itself
  cat chat.yaml | metainf plan -f - --pools pools.yaml --config ./my-model

exit code: 0 chosen, 3 refused (any), 2 bad input, 1 a fault"""

Manifest = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class _Document:
    """A manifest and the file that it stands in."""

    file: str
    manifest: Manifest

    @property
    def title(self) -> str:
        """File, kind and name, as messages begin."""
        metadata = self.manifest.get("metadata")
        name = metadata.get("name", "") if isinstance(metadata, Mapping) else ""
        return f"{self.file}: {self.manifest.get('kind', 'document')} {name}".rstrip()


def add_parser(subparsers: Any) -> None:
    """Add `plan` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "plan",
        help="decide for InferenceWorkload manifests from files, without a cluster",
        description="Shows the decision that the operator would take for each InferenceWorkload: what is chosen, the\n"
        "runners-up, why not the others, and for a refusal the budget that would work. No cluster is asked: each\n"
        "workload is planned by itself, as if nothing ran in the pools yet. kubectl metainf plan asks the cluster.\n"
        "A ConfigMap with a model's config.json and a pinned InferenceDecision count where they stand in the files.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-f",
        "--filename",
        action="append",
        required=True,
        metavar="FILE",
        help="manifests, YAML or JSON; - reads standard input; may be given more than once",
    )
    parser.add_argument(
        "--pools",
        action="append",
        required=True,
        metavar="FILE",
        help="AcceleratorPool manifests; may be given more than once. nodes.min nodes of a pool, or nodes.max where no "
        "min is written, stand and are empty, paid by the share; a node that has to be added is paid whole",
    )
    parser.add_argument(
        "-o",
        "--output",
        choices=("table", "json", "yaml"),
        default="table",
        help="table (default), or the InferenceDecision as json or yaml",
    )
    parser.add_argument(
        "--engine-version",
        default=DEFAULT_ENGINE_VERSION,
        metavar="VERSION",
        help=f"version of vLLM for workloads that name none (default: {DEFAULT_ENGINE_VERSION})",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="PATH",
        help="a config.json or its folder, taken for the model of every workload instead of asking the hub",
    )
    add_predictor_option(parser)


def run(args: argparse.Namespace) -> int:
    """Plan every InferenceWorkload of the files; those that cannot be read do not stop the others."""
    documents = [document for file in args.filename for document in _read(file)]
    workloads = [document for document in documents if is_kind(document.manifest, WORKLOAD_KIND)]
    for document in documents:
        if is_kind(document.manifest, POOL_KIND):
            _note(f"{document.title}: passed over, since pools are those of --pools")
        elif not _used(document):
            _note(f"{document.title}: not planned, since it is no {WORKLOAD_KIND}")
    if not workloads:
        raise InvalidWorkloadError(f"{', '.join(args.filename)}: no {WORKLOAD_KIND} in it")
    pools = _pools(args.pools)
    predictor = chosen_predictor(args.predictor)
    plans: list[Plan] = []
    failed = False
    for document in workloads:
        try:
            plans.append(_plan(document, documents, pools, predictor, args))
        except InvalidWorkloadError as error:
            _note(f"{document.title}: {error}")
            failed = True
    write_plans(plans, args.output, sys.stdout)
    if failed:
        return _BAD_INPUT
    return _CHOSEN if all(each.chosen is not None for each in plans) else _REFUSED


def _used(document: _Document) -> bool:
    """Whether the document is planned, or may be what a planned one refers to."""
    kinds = (WORKLOAD_KIND, DECISION_KIND)
    return any(is_kind(document.manifest, kind) for kind in kinds) or document.manifest.get("kind") == "ConfigMap"


def write_plans(plans: Sequence[Plan], output: str, stream: TextIO) -> None:
    """Print plans as `table`, `json` (several make a List) or `yaml` (several make several documents)."""
    if not plans:
        return
    manifests = [each.manifest for each in plans]
    if output == "table":
        print_plans(plans, stream)
    elif output == "json":
        listed = {"apiVersion": "v1", "kind": "List", "items": manifests}
        json.dump(manifests[0] if len(manifests) == 1 else listed, stream, indent=2, ensure_ascii=False)
        stream.write("\n")
    else:
        yaml.dump_all(manifests, stream, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """Without anchors, which would stand wherever two manifests share a part."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _note(text: str) -> None:
    print(f"metainf: {text}", file=sys.stderr)


def _read(file: str) -> list[_Document]:
    name = "standard input" if file == "-" else file
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except IsADirectoryError as error:
        message = f"reading {name}: it is a folder; name the files in it, each with an option of its own"
        raise InvalidWorkloadError(message) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidWorkloadError(f"reading {name}: {reason}") from error
    return [_Document(name, manifest) for manifest in read_documents(text, name)]


def _pools(files: Sequence[str]) -> tuple[NodePool, ...]:
    pools: dict[str, NodePool] = {}
    for file in files:
        for document in _read(file):
            if not is_kind(document.manifest, POOL_KIND):
                _note(f"{document.title}: passed over, since it is no {POOL_KIND}")
                continue
            pool = _pool(document)
            if pool.name in pools:
                raise InvalidWorkloadError(f"{document.title}: another pool has this name: rename one")
            pools[pool.name] = pool
    if not pools:
        raise InvalidWorkloadError(f"{', '.join(files)}: no {POOL_KIND} in it")
    return tuple(pools.values())


def _pool(document: _Document) -> NodePool:
    try:
        parsed = parse_pool(document.manifest)
    except InvalidWorkloadError as error:
        raise InvalidWorkloadError(f"{document.title}: {error}") from error
    try:
        return standing_pool(parsed)
    except InvalidWorkloadError as error:
        raise InvalidWorkloadError(f"{document.file}: {error}") from error


def _plan(
    document: _Document,
    documents: Sequence[_Document],
    pools: Sequence[NodePool],
    predictor: Predictor,
    args: argparse.Namespace,
) -> Plan:
    workload = parse_workload(document.manifest)
    architecture, revision = _model(workload, documents, args.config)
    return plan(
        workload,
        architecture,
        revision=revision,
        pools=pools,
        predictor=predictor,
        engine_version=args.engine_version,
        pinned=_pinned(workload, documents),
    )


def _model(
    workload: InferenceWorkload, documents: Sequence[_Document], config: Path | None
) -> tuple[ModelArchitecture, str | None]:
    """The architecture, and the commit as far as it is known without asking more than once."""
    model = workload.model
    if config is not None:
        return resolve_model(str(config.expanduser().absolute())).architecture, model.revision
    if model.config_map is not None:
        name, key = model.config_map.name, model.config_map.key
        for document in documents:
            if _is_config_map(document, workload.namespace, name):
                return _from_config_map(document, key, model.id), model.revision
        raise InvalidWorkloadError(
            f"spec.model.architecture.configMapRef: no ConfigMap {name} in the files: add it to them, or give its "
            "config.json with --config"
        )
    try:
        resolved = resolve_model(model.id, revision=model.revision, allow_hub=model.pvc is None)
    except UnknownModelError as error:
        raise UnknownModelError(f"spec.model.id: {error}; --config takes a config.json") from error
    return resolved.architecture, resolved.revision


def _is_config_map(document: _Document, namespace: str, name: str) -> bool:
    metadata = document.manifest.get("metadata")
    return (
        document.manifest.get("kind") == "ConfigMap"
        and isinstance(metadata, Mapping)
        and metadata.get("name") == name
        and metadata.get("namespace", namespace) == namespace
    )


def _from_config_map(document: _Document, key: str, model_id: str) -> ModelArchitecture:
    data = document.manifest.get("data")
    text = data.get(key) if isinstance(data, Mapping) else None
    if not isinstance(text, str):
        raise InvalidWorkloadError(f"{document.title}: it has no text under data.{key}")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidWorkloadError(f"{document.title}: data.{key} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise InvalidWorkloadError(f"{document.title}: data.{key} is no JSON object")
    return ModelArchitecture.from_config(config, name=model_id)


def _pinned(workload: InferenceWorkload, documents: Sequence[_Document]) -> CandidateName | None:
    """The candidate of the decision that the workload is pinned to, which has to stand in the files too."""
    pin = workload.policy.pinned
    if pin is None or pin.decision is None:
        return None
    for document in documents:
        metadata = document.manifest.get("metadata")
        named = isinstance(metadata, Mapping) and metadata.get("name") == pin.decision
        if named and is_kind(document.manifest, DECISION_KIND):
            decision = parse_decision(document.manifest)
            if decision.chosen is None:
                raise InvalidWorkloadError(f"spec.policy.pinned.decision: {pin.decision} is a refusal: pin a choice")
            return decision.chosen.candidate
    raise InvalidWorkloadError(
        f"spec.policy.pinned.decision: {pin.decision} is not in the files: add it to them, or write the candidate "
        "itself under pinned.candidate"
    )
