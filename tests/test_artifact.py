"""The predictor's file: the same bytes for the same content, and a refusal of everything else with a sentence."""

import hashlib
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metainf.artifact import ARTIFACT_SCHEMA, Provenance, load_predictor, read_manifest, write_predictor
from metainf.errors import ArtifactError, SchemaMismatchError
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.base_answers import TARGETS
from metainf.predictors.contract import Question
from metainf.predictors.corrections import KINDS
from metainf.predictors.default import SHIPPED, default_predictor
from metainf.predictors.inputs import INPUTS
from metainf.predictors.step_factors import PARTS
from metainf.predictors.trained import TrainedPredictor
from metainf.predictors.trees import ObliviousTrees
from metainf.workload import RateLoad, TokenLengths, Traffic
from test_predictor_contract import check_predictor, questions, spec
from trained_models import artifact_bytes, predictor, trained

Members = dict[str, bytes]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "predictor.metainf"
    path.write_bytes(artifact_bytes())
    return path


def members_of(data: bytes) -> Members:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(members: Members, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def changed(**fields: object) -> Callable[[Members], Members]:
    def change(members: Members) -> Members:
        document = json.loads(members["manifest.json"]) | fields
        return {**members, "manifest.json": json.dumps(document).encode()}

    return change


def with_array(name: str, array: np.ndarray, *, digest: bool = True) -> Callable[[Members], Members]:
    def change(members: Members) -> Members:
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        document = json.loads(members["manifest.json"])
        if digest:
            document["arrays"][name] = "sha256:" + hashlib.sha256(buffer.getvalue()).hexdigest()
        return {**members, "manifest.json": json.dumps(document).encode(), f"{name}.npy": buffer.getvalue()}

    return change


def same_factors(accelerator: str = "", value: float = 0.1) -> Callable[[Members], Members]:
    """Factors that are all alike, of as many accelerators, all with that name if one is given."""
    count = len(trained()[0].factors.accelerators)
    names = [accelerator or f"chip-{number}" for number in range(count)]
    table = with_array("factors", np.full((count + 1, len(PARTS)), value))
    return lambda members: changed(accelerators=names)(table(members))


def without(name: str) -> Callable[[Members], Members]:
    return lambda members: {key: value for key, value in members.items() if key != name}


def test_what_was_written_answers_the_same_when_it_is_read(file: Path) -> None:
    asked = questions()
    read, written = load_predictor(file), predictor()
    np.testing.assert_array_equal(read.predict(asked).latency_s, written.predict(asked).latency_s)
    np.testing.assert_array_equal(read.predict(asked).latency_log_sd, written.predict(asked).latency_log_sd)
    assert read.model.factors.digest == written.model.factors.digest
    assert read.identity.digest == "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_file_keeps_the_contract(file: Path) -> None:
    check_predictor(lambda: load_predictor(file))


def test_the_manifest_says_where_the_model_comes_from(file: Path) -> None:
    manifest = read_manifest(file)
    assert manifest.provenance.corpus_digest == "sha256:0"
    assert manifest.provenance.world == "own"
    assert manifest.provenance.metrics["lanes"] == trained()[1].lanes
    assert set(manifest.provenance.versions) >= {"metainf", "numpy", "python"}
    assert manifest.provenance.metrics["caution"] == trained()[1].caution


def test_nothing_in_the_file_says_when_or_where_it_was_made(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert all(info.filename.endswith((".npy", ".json")) for info in archive.infolist())
    assert file.stat().st_size < 10e6


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(without("tree_leaves.npy"), "tree_leaves is missing", id="an array is gone"),
        pytest.param(without("manifest.json"), "no manifest.json", id="no manifest"),
        pytest.param(lambda m: {**m, "more.npy": b"x"}, "does not belong", id="a member too many"),
        pytest.param(lambda m: {**m, "../evil.npy": b"x"}, "no name of a member", id="a path as a name"),
        pytest.param(lambda m: {**m, "evil.py": b"x"}, "no name of a member", id="a script"),
        pytest.param(lambda m: {**m, "manifest.json": b"{"}, "cannot be understood", id="no JSON"),
        pytest.param(lambda m: {**m, "manifest.json": b"[]"}, "something else", id="another JSON"),
        pytest.param(changed(format="onnx"), "something else", id="another format"),
        pytest.param(changed(arrays=[]), "cannot be understood", id="no arrays"),
        pytest.param(with_array("caution", np.ones(len(KINDS))), "do not fit together", id="one category's cautions"),
        pytest.param(with_array("caution", np.zeros((2, len(KINDS)))), "above 0", id="no caution at all"),
        pytest.param(with_array("caution", np.full((2, len(KINDS)), np.inf)), "no numbers", id="caution without end"),
        pytest.param(
            with_array("growth", np.zeros(2), digest=False), "changed after it was written", id="a changed array"
        ),
        pytest.param(with_array("growth", np.zeros(3)), "do not fit together", id="another shape"),
        pytest.param(with_array("factors", np.zeros((1, len(PARTS)))), "do not fit together", id="factors of nobody"),
        pytest.param(changed(accelerators=["one"]), "do not fit together", id="factors of too many"),
        pytest.param(same_factors("H100-SXM-80GB"), "twice", id="factors twice"),
        pytest.param(same_factors(value=9.0), "beyond", id="factors of thousands"),
        pytest.param(with_array("growth", np.array([np.nan, 0])), "no numbers", id="values that are no numbers"),
        pytest.param(with_array("growth", np.array([{}, 1], dtype=object)), "is no array", id="pickled objects"),
        pytest.param(with_array("growth", np.array(["a", "b"])), "no array of numbers", id="texts"),
        pytest.param(lambda m: {**m, "zeros.npy": b"\0" * (80 << 20)}, "unpack to more", id="a bomb"),
        pytest.param(
            lambda m: {**m, **{f"a{n}.npy": b"" for n in range(100)}}, "too many", id="members without number"
        ),
    ],
)
def test_refuses_what_it_did_not_write(file: Path, change: Callable[[Members], Members], says: str) -> None:
    file.write_bytes(packed(change(members_of(artifact_bytes()))))
    with pytest.raises(ArtifactError, match=says) as raised:
        load_predictor(file)
    assert str(file) in str(raised.value)
    assert "install the shipped file again" in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(changed(schema=ARTIFACT_SCHEMA - 1), id="an older version's"),
        pytest.param(changed(schema=ARTIFACT_SCHEMA + 1), id="a newer version's"),
        pytest.param(changed(kinds=["rate"]), id="other kinds of traffic"),
        pytest.param(changed(featureSchema=999), id="other formulas"),
        pytest.param(changed(inputs=["a", "b"]), id="other columns"),
        pytest.param(changed(parts=["a", "b"]), id="other parts of a step"),
    ],
)
def test_says_so_where_the_file_is_of_another_schema(file: Path, change: Callable[[Members], Members]) -> None:
    file.write_bytes(packed(change(members_of(artifact_bytes()))))
    with pytest.raises(SchemaMismatchError, match="train it again with this version"):
        load_predictor(file)


def width_trees(column: int, depth: int = 1) -> ObliviousTrees:
    """One tree that asks about a column, so often."""
    return ObliviousTrees(
        feature=np.full((1, depth), column, dtype=np.int16),
        border=np.zeros((1, depth), dtype=np.float32),
        leaves=np.full((1, 1 << depth, len(TARGETS)), 0.3, dtype=np.float32),
        bias=np.zeros(len(TARGETS)),
        knots=1,
        features=len(INPUTS),
    )


@pytest.mark.parametrize(
    "trees", [pytest.param(None, id="equal widths"), pytest.param(width_trees(0), id="widths by features")]
)
def test_trees_of_widths_are_in_the_file_where_there_are_some(tmp_path: Path, trees: ObliviousTrees | None) -> None:
    path = tmp_path / "predictor.metainf"
    model = replace(trained()[0], width_trees=trees)
    write_predictor(model, Provenance("sha256:0", "own", 0, {}), path)
    read, asked = load_predictor(path), questions()
    assert (read.model.width_trees is None) == (trees is None)
    expected = TrainedPredictor(model, "sha256:0").predict(asked)
    np.testing.assert_array_equal(read.predict(asked).latency_log_sd, expected.latency_log_sd)
    np.testing.assert_array_equal(read.predict(asked).caution, expected.caution)


def test_widths_that_ask_about_the_load_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "predictor.metainf"
    write_predictor(
        replace(trained()[0], width_trees=width_trees(len(INPUTS))), Provenance("sha256:0", "own", 0, {}), path
    )
    with pytest.raises(ArtifactError, match="columns that there are not"):
        load_predictor(path)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99, 0.99999])
def test_refuses_a_file_that_was_cut_short(file: Path, kept: float) -> None:
    data = artifact_bytes()
    file.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ArtifactError):
        load_predictor(file)


@pytest.mark.parametrize("seed", range(12))
def test_refuses_a_file_with_a_flipped_bit_or_answers_the_same(file: Path, seed: int) -> None:
    data = bytearray(artifact_bytes())
    place = int(np.random.default_rng(seed).integers(0, len(data)))
    data[place] ^= 1 << (seed % 8)
    file.write_bytes(bytes(data))
    asked = [Question(spec("meta-llama/Llama-3.1-8B-Instruct", "H100-SXM-80GB"), _traffic())]
    try:
        found = load_predictor(file).predict(asked)
    except ArtifactError:
        return
    np.testing.assert_array_equal(found.latency_s, predictor().predict(asked).latency_s)


def _traffic() -> Traffic:
    return Traffic(RateLoad(1.0), TokenLengths(500), TokenLengths(100))


@pytest.mark.parametrize(
    "packing",
    [pytest.param(zipfile.ZIP_LZMA, id="lzma"), pytest.param(zipfile.ZIP_BZIP2, id="bzip2")],
)
def test_refuses_packings_that_it_does_not_use(file: Path, packing: int) -> None:
    file.write_bytes(packed(members_of(artifact_bytes()), packing))
    with pytest.raises(ArtifactError, match="packed in a way"):
        load_predictor(file)


def test_a_missing_file_is_an_artifact_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="check the path"):
        load_predictor(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match="check the path"):
        load_predictor(tmp_path)


def test_loads_without_any_library_of_training(file: Path) -> None:
    code = (
        "import sys, pathlib; from metainf.artifact import load_predictor; load_predictor(pathlib.Path(sys.argv[1]));"
        "bad = {'numba', 'sklearn', 'lightgbm', 'pandas', 'pyarrow', 'torch', 'scipy'} & set(sys.modules);"
        "sys.exit(', '.join(sorted(bad)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)


def test_the_default_falls_back_and_says_why(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, why = default_predictor(file)
    assert isinstance(found, TrainedPredictor)
    assert why is None
    file.write_bytes(b"nonsense")
    found, why = default_predictor(file)
    assert isinstance(found, AnalyticalPredictor)
    assert why is not None
    assert str(file) in why
    monkeypatch.setattr("metainf.predictors.default.SHIPPED", tmp_path / "none")
    found, why = default_predictor()
    assert isinstance(found, AnalyticalPredictor)
    assert why is None


def test_the_shipped_file_is_whole_where_there_is_one() -> None:
    if not SHIPPED.exists():
        pytest.skip("no predictor is shipped with this version")
    assert isinstance(load_predictor(SHIPPED), TrainedPredictor)
    assert SHIPPED.stat().st_size < 10e6
