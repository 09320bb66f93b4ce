"""Common open models whose config.json is bundled, so that the hub need not be asked for them.

Separate because it is data with a lookup: the facts are in data/models/*.json, one file per maker, trimmed to the
fields that the families read, each with its source. A name that is not bundled is not an error here.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources

from metainf.architecture import ModelArchitecture

__all__ = ["known_model", "known_model_config", "known_model_ids"]

_FOLDER = ("data", "models")


@cache
def _catalogue() -> Mapping[str, tuple[str, Mapping[str, object]]]:
    """Lower-case id -> id and config."""
    folder = resources.files("metainf").joinpath(*_FOLDER)
    models: dict[str, tuple[str, Mapping[str, object]]] = {}
    for file in sorted(folder.iterdir(), key=lambda each: each.name):
        if not file.name.endswith(".json"):
            continue
        document = json.loads(file.read_text(encoding="utf-8"))
        for entry in document["models"]:
            for model_id in entry["ids"]:
                models[model_id.lower()] = (model_id, entry["config"])
    return models


def known_model_ids() -> tuple[str, ...]:
    """All bundled ids, sorted."""
    return tuple(sorted(model_id for model_id, _ in _catalogue().values()))


def known_model_config(model_id: str) -> Mapping[str, object] | None:
    """The bundled fields of a model's config.json; upper and lower case do not matter."""
    found = _catalogue().get(model_id.lower())
    return None if found is None else found[1]


@cache
def _architecture(key: str) -> ModelArchitecture:
    model_id, config = _catalogue()[key]
    return ModelArchitecture.from_config(config, name=model_id)


def known_model(model_id: str) -> ModelArchitecture | None:
    """The architecture of a bundled model, None for any other; upper and lower case do not matter."""
    key = model_id.lower()
    return _architecture(key) if key in _catalogue() else None
