"""A trained predictor as one file: arrays and a manifest in a zip, without pickle, the same bytes for the same content.

Separate from the predictor, which is arrays in memory, and from training, which makes them: this decides what a file
may be. Whoever mounts a file is not trusted with more than its numbers: nothing in it is executed, what it may unpack
to is bounded before anything is unpacked, and every array is held against its digest in the manifest.

Why a zip of .npy files: they are read by numpy alone, each can be looked at with ordinary tools, and the format says
shape and type before the data. Rejected: pickle and joblib (execute), safetensors (one more dependency), JSON (slow,
and ten times the size).
"""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metainf.errors import ArtifactError, SchemaMismatchError
from metainf.meta_features.schema import FEATURE_SCHEMA
from metainf.predictors.base_answers import KNOTS, TARGETS
from metainf.predictors.corrections import KINDS, TrainedModel
from metainf.predictors.familiarity import GROUPS, Familiarity
from metainf.predictors.inputs import INPUTS
from metainf.predictors.step_factors import MOST_LOG_FACTOR, PARTS, StepFactors
from metainf.predictors.trained import TrainedPredictor
from metainf.predictors.trees import ObliviousTrees

__all__ = [
    "ARTIFACT_SCHEMA",
    "Manifest",
    "Provenance",
    "load_predictor",
    "manifest_number",
    "read_manifest",
    "write_predictor",
]

ARTIFACT_SCHEMA = 4
"""Raised whenever an older version could not read what is written, or this one what an older version wrote.

2: the caution by kind of traffic and category, and trees of widths, which may be absent.
3: factors on the steps of accelerators.
4: spreads by kind of traffic.
"""

_FORMAT = "metainf-predictor"
_MANIFEST = "manifest.json"
_SUFFIX = ".npy"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say
_MOST_FILE_BYTES = 32 << 20
_MOST_MANIFEST_BYTES = 1 << 20
_MOST_UNPACKED_BYTES = 64 << 20
_MOST_MEMBERS = 64
_DTYPES = frozenset({"<i2", "<i4", "<i8", "<f4", "<f8"})
_MOST_DEPTH = 16
_WIDTHS = "width"

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a model comes from: what is written beside its arrays, and nothing that changes from run to run."""

    corpus_digest: str
    world: str
    """Whose rows were learnt from: a world of the corpus, or `own`."""
    seed: int
    versions: Mapping[str, str]
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a file says of itself."""

    schema: int
    feature_schema: int
    provenance: Provenance
    arrays: Mapping[str, str]
    """Digest of each array's file."""
    generations: tuple[str, ...]
    accelerators: tuple[str, ...]
    """Those whose steps have factors, in the order of these."""


def manifest_number(value: float) -> float | None:
    """A figure as a manifest has it: to four digits, null where there is none, since JSON knows neither NaN nor inf."""
    return round(value, 4) if np.isfinite(value) else None


def write_predictor(model: TrainedModel, provenance: Provenance, path: Path) -> str:
    """Write the model; returns the digest of the file. Equal models and provenance give equal bytes."""
    payload = {name: _packed(array) for name, array in sorted(_arrays_of(model).items())}
    document = {
        "format": _FORMAT,
        "schema": ARTIFACT_SCHEMA,
        "featureSchema": FEATURE_SCHEMA,
        "inputs": list(INPUTS),
        "targets": list(TARGETS),
        "kinds": list(KINDS),
        "parts": list(PARTS),
        "generations": sorted(model.generations),
        "accelerators": list(model.factors.accelerators),
        "corpusDigest": provenance.corpus_digest,
        "world": provenance.world,
        "seed": provenance.seed,
        "versions": dict(provenance.versions),
        "metrics": dict(provenance.metrics),
        "arrays": {name: _digest(data) for name, data in payload.items()},
    }
    members = {_MANIFEST: json.dumps(document, sort_keys=True, indent=1, allow_nan=False).encode()}
    members |= {f"{name}{_SUFFIX}": data for name, data in payload.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    path.write_bytes(buffer.getvalue())
    return _digest(buffer.getvalue())


def load_predictor(path: Path) -> TrainedPredictor:
    """The predictor of a file.

    Raises
    ------
    SchemaMismatchError
        It was written for other features or by a newer version.
    ArtifactError
        There is no such file, or it is damaged, cut short or foreign.
    """
    data = _read(path)
    members = _members(data, path)
    manifest = _manifest(members.pop(_MANIFEST), path)
    arrays = {}
    for name, digest in manifest.arrays.items():
        packed = members.pop(f"{name}{_SUFFIX}", None)
        if packed is None:
            raise _refused(path, f"{name} is missing")
        if _digest(packed) != digest:
            raise _refused(path, f"{name} was changed after it was written")
        arrays[name] = _unpacked(packed, name, path)
    if members:
        raise _refused(path, f"{sorted(members)[0][:80]!r} does not belong into it")
    return TrainedPredictor(_model_of(arrays, manifest, path), _digest(data))


def read_manifest(path: Path) -> Manifest:
    """What a file says of itself; raises as `load_predictor` does."""
    return _manifest(_members(_read(path), path)[_MANIFEST], path)


def _refused(path: Path, why: str) -> ArtifactError:
    return ArtifactError(f"reading the predictor {path}: {why}; install the shipped file again, or train a new one")


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_FILE_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"reading the predictor {path}: {error.strerror or error}; check the path") from error
    if len(data) > _MOST_FILE_BYTES:
        raise _refused(path, f"it is larger than {_MOST_FILE_BYTES >> 20} MiB, which no predictor is")
    return data


def _members(data: bytes, path: Path) -> dict[str, bytes]:
    """The members' bytes, with every bound checked on what the directory declares and on what really comes out."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            _check_directory(infos, path)
            members = {}
            for info in infos:
                with archive.open(info) as member:
                    content = member.read(info.file_size + 1)
                if len(content) != info.file_size:
                    raise _refused(path, f"{info.filename} is not as long as it says")
                members[info.filename] = content
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise _refused(path, f"it is damaged, cut short or no predictor ({error})") from error
    return members


def _check_directory(infos: list[zipfile.ZipInfo], path: Path) -> None:
    names = [info.filename for info in infos]
    if _MANIFEST not in names:
        raise _refused(path, f"it has no {_MANIFEST}, so it is no predictor")
    if len(names) > _MOST_MEMBERS or len(set(names)) != len(names):
        raise _refused(path, "its members are too many or stand there twice")
    for info in infos:
        stem = info.filename.removesuffix(_SUFFIX)
        plain = info.filename == _MANIFEST or (stem != info.filename and stem.replace("_", "").isalnum())
        if not plain or not info.filename.isascii():
            raise _refused(path, f"{info.filename[:80]!r} is no name of a member")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise _refused(path, f"{info.filename} is packed in a way that is not used here")
    if sum(info.file_size for info in infos) > _MOST_UNPACKED_BYTES:
        raise _refused(path, f"it would unpack to more than {_MOST_UNPACKED_BYTES >> 20} MiB")
    if next(info.file_size for info in infos if info.filename == _MANIFEST) > _MOST_MANIFEST_BYTES:
        raise _refused(path, f"its {_MANIFEST} is too long")


def _manifest(data: bytes, path: Path) -> Manifest:
    try:
        document = json.loads(data)
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise _refused(path, "it is a file of something else")
        _check_schema(document, path)
        return Manifest(
            schema=int(document["schema"]),
            feature_schema=int(document["featureSchema"]),
            provenance=Provenance(
                corpus_digest=str(document["corpusDigest"]),
                world=str(document["world"]),
                seed=int(document["seed"]),
                versions={str(key): str(value) for key, value in document["versions"].items()},
                metrics=dict(document["metrics"]),
            ),
            arrays={str(key): str(value) for key, value in document["arrays"].items()},
            generations=tuple(str(each) for each in document["generations"]),
            accelerators=tuple(str(each) for each in document["accelerators"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _refused(path, f"its {_MANIFEST} cannot be understood ({type(error).__name__}: {error})") from error


def _check_schema(document: Mapping[str, Any], path: Path) -> None:
    schema, features = document["schema"], document["featureSchema"]
    if schema != ARTIFACT_SCHEMA:
        raise SchemaMismatchError(
            f"reading the predictor {path}: it has schema {schema}, this version reads {ARTIFACT_SCHEMA}; "
            "train it again with this version, or use the version that wrote it"
        )
    columns = {"inputs": INPUTS, "targets": TARGETS, "kinds": KINDS, "parts": PARTS}
    same = all(document[name] == list(own) for name, own in columns.items())
    if features != FEATURE_SCHEMA or not same:
        raise SchemaMismatchError(
            f"reading the predictor {path}: it was trained on features of schema {features}, this version computes "
            f"schema {FEATURE_SCHEMA}{'' if same else ', with other columns'}; train it again with this version"
        )


def _packed(array: Array) -> bytes:
    buffer = io.BytesIO()
    little = array.astype(array.dtype.newbyteorder("<"))
    np.lib.format.write_array(buffer, np.ascontiguousarray(little), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _unpacked(data: bytes, name: str, path: Path) -> Array:
    try:
        found: Array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise _refused(path, f"{name} is no array") from error
    if not isinstance(found, np.ndarray) or found.dtype.str not in _DTYPES:
        raise _refused(path, f"{name} is no array of numbers")
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise _refused(path, f"{name} holds values that are no numbers")
    return found


def _arrays_of(model: TrainedModel) -> dict[str, Array]:
    known = model.familiarity
    points = {f"points_{group.name}": each for group, each in zip(GROUPS, known.points, strict=True)}
    widths = {} if model.width_trees is None else _arrays_of_trees(model.width_trees, _WIDTHS)
    return {
        **_arrays_of_trees(model.trees, "tree"),
        **widths,
        "scale": known.scale,
        "thresholds": known.thresholds,
        "log_sd": model.log_sd,
        "growth": model.growth,
        "caution": model.caution,
        "factors": np.concatenate([model.factors.log, model.factors.others[None]]),
        **points,
    }


def _arrays_of_trees(trees: ObliviousTrees, name: str) -> dict[str, Array]:
    return {
        f"{name}_feature": trees.feature,
        f"{name}_border": trees.border,
        f"{name}_leaves": trees.leaves,
        f"{name}_bias": trees.bias,
    }


def _model_of(arrays: Mapping[str, Array], manifest: Manifest, path: Path) -> TrainedModel:
    try:
        _check_shapes(arrays)
        points = tuple(arrays[f"points_{group.name}"].astype(np.float64) for group in GROUPS)
        return TrainedModel(
            trees=_trees_of(arrays, "tree", knots=KNOTS),
            familiarity=Familiarity(arrays["scale"], points, arrays["thresholds"]),
            log_sd=arrays["log_sd"],
            growth=arrays["growth"],
            generations=frozenset(manifest.generations),
            caution=arrays["caution"],
            width_trees=_trees_of(arrays, _WIDTHS, knots=1) if f"{_WIDTHS}_feature" in arrays else None,
            factors=_factors_of(arrays, manifest.accelerators),
        )
    except (KeyError, ValueError) as error:
        raise _refused(path, f"its arrays do not fit together ({error})") from error


def _trees_of(arrays: Mapping[str, Array], name: str, *, knots: int) -> ObliviousTrees:
    """Trees over INPUTS and, where there are several knots, over the load.

    Raises
    ------
    KeyError, ValueError
        They are not whole.
    """
    feature = arrays[f"{name}_feature"]
    trees, depth = feature.shape
    if depth > _MOST_DEPTH:
        raise ValueError(f"trees of depth {depth}")
    outputs, width = len(TARGETS), len(INPUTS)
    shapes = {"border": (trees, depth), "leaves": (trees, 1 << depth, outputs), "bias": (outputs,)}
    _check_shape_of(arrays, {f"{name}_{part}": shape for part, shape in shapes.items()})
    last = width if knots > 1 else width - 1
    if feature.size and not (int(feature.min()) >= -1 and int(feature.max()) <= last):
        raise ValueError("trees ask about columns that there are not")
    return ObliviousTrees(
        feature=feature.astype(np.int16),
        border=arrays[f"{name}_border"].astype(np.float32),
        leaves=arrays[f"{name}_leaves"].astype(np.float32),
        bias=arrays[f"{name}_bias"].astype(np.float64),
        knots=knots,
        features=width,
    )


def _factors_of(arrays: Mapping[str, Array], accelerators: tuple[str, ...]) -> StepFactors:
    """Factors of the accelerators, and last of all others.

    Raises
    ------
    KeyError, ValueError
        They are not whole, or none that training finds.
    """
    _check_shape_of(arrays, {"factors": (len(accelerators) + 1, len(PARTS))})
    if len(set(accelerators)) != len(accelerators):
        raise ValueError("an accelerator has factors twice")
    table = arrays["factors"].astype(np.float64)
    if not (np.abs(table) <= MOST_LOG_FACTOR).all():
        raise ValueError(f"factors beyond exp({MOST_LOG_FACTOR})")
    return StepFactors(accelerators, table[:-1], table[-1])


def _check_shapes(arrays: Mapping[str, Array]) -> None:
    expected: dict[str, tuple[int, ...]] = {
        "scale": (len(INPUTS),),
        "thresholds": (len(GROUPS),),
        "log_sd": (2, len(KINDS), KNOTS, len(TARGETS)),
        "growth": (2,),
        "caution": (2, len(KINDS)),
    }
    _check_shape_of(arrays, expected)
    for group in GROUPS:
        if arrays[f"points_{group.name}"].shape[1:] != (len(group.columns),) or not len(arrays[f"points_{group.name}"]):
            raise ValueError(f"points_{group.name} has shape {arrays[f'points_{group.name}'].shape}")
    if not all((arrays[name] > 0).all() for name in ("log_sd", "scale", "thresholds", "caution")):
        raise ValueError("spreads, scales and cautions must be above 0")


def _check_shape_of(arrays: Mapping[str, Array], expected: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has shape {arrays[name].shape}, not {shape}")
