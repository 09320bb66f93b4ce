"""From what a user writes for a model to its architecture: a path, a bundled id, or an id on the hub.

Separate because it joins the file system, the bundled list and the hub, which should not know each other.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from metainf.architecture import ModelArchitecture
from metainf.errors import InvalidWorkloadError, UnknownModelError
from metainf.hub import MAX_FILE_BYTES, fetch_config
from metainf.known_models import known_model

__all__ = ["ModelSource", "ResolvedModel", "resolve_model"]

_CONFIG, _QUANT_CONFIG = "config.json", "hf_quant_config.json"


class ModelSource(StrEnum):
    """Where an architecture was read from."""

    FILE = "file"
    BUNDLED = "bundled"
    HUB = "hub"


@dataclass(frozen=True)
class ResolvedModel:
    """An architecture and where it came from."""

    architecture: ModelArchitecture
    source: ModelSource
    revision: str | None = None
    """The commit on the hub; None where the hub was not asked."""


def resolve_model(
    ref: str, *, revision: str | None = None, token: str | None = None, allow_hub: bool = True
) -> ResolvedModel:
    """Find a model: a config.json or its folder, then the bundled list, then the hub.

    A path starts with `/`, `./`, `../` or `~`, ends in .json, or exists as a folder with a config.json. With a
    `revision` the bundled list is passed over, as it states none.

    Raises
    ------
    UnknownModelError
        Neither a path, nor bundled, nor on the hub; or its architecture is not known.
    InvalidWorkloadError
        Its config.json cannot be right, or the hub wants a token.
    HubError
        The hub did not answer.
    """
    if not ref or "\0" in ref:
        raise InvalidWorkloadError("the model is empty; give an id as owner/name, or a path to a config.json")
    path = _as_path(ref)
    if path is not None:
        return ResolvedModel(_from_path(path, ref), ModelSource.FILE)
    bundled = known_model(ref) if revision is None else None
    if bundled is not None:
        return ResolvedModel(bundled, ModelSource.BUNDLED)
    if not allow_hub:
        raise UnknownModelError(f"{ref[:200]}: not among the bundled models; give its config.json")
    fetched = fetch_config(ref, revision, token=token)
    architecture = ModelArchitecture.from_config(
        fetched.config, name=fetched.model_id, hf_quant_config=fetched.hf_quant_config
    )
    return ResolvedModel(architecture, ModelSource.HUB, fetched.commit)


def _as_path(ref: str) -> Path | None:
    looks_like_path = ref.startswith(("/", "./", "../", "~")) or ref in (".", "..") or ref.endswith(".json")
    try:
        path = Path(ref).expanduser()
        return path if looks_like_path or (path / _CONFIG).is_file() else None
    except (OSError, RuntimeError) as exc:
        raise InvalidWorkloadError(f"{ref[:200]!r} is no usable path: {exc}") from exc


def _from_path(path: Path, ref: str) -> ModelArchitecture:
    file = path / _CONFIG if path.is_dir() else path
    side = file.with_name(_QUANT_CONFIG)
    config = _read(file)
    quant = _read(side) if file.name == _CONFIG and side.is_file() else None
    return ModelArchitecture.from_config(config, name=ref, hf_quant_config=quant)


def _read(file: Path) -> dict[str, object]:
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
        value = json.loads(raw) if len(raw) <= MAX_FILE_BYTES else None
    except OSError as exc:
        raise UnknownModelError(f"reading {file}: {exc.strerror or exc}") from exc
    except (ValueError, RecursionError) as exc:
        raise InvalidWorkloadError(f"{file} is not valid JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise InvalidWorkloadError(f"{file} must be a JSON object of at most {MAX_FILE_BYTES} bytes")
    return value
