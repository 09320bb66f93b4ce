"""The operator's image: the two ways to make it agree, its layers are deterministic, and nothing is left to chance.

Building needs Docker, or root and debootstrap; here are the parts that need neither.
"""

import importlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_ROOT = Path(__file__).resolve().parent.parent
_DOCKERFILE = (_ROOT / "operator/Dockerfile").read_text()
_LAST_STAGE = _DOCKERFILE.rpartition("\nFROM ")[2]
_REQUIREMENTS = sorted((_ROOT / "requirements").glob("*.txt"))


@pytest.fixture
def assemble(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(_ROOT / "operator/image"))
    yield importlib.import_module("assemble")


@pytest.fixture
def trim(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(_ROOT / "operator/image"))
    return importlib.import_module("trim")


def _instruction(name: str) -> str:
    found = re.search(rf"^{name} ((?:.*\\\n)*.*)", _LAST_STAGE, re.MULTILINE)
    assert found is not None, name
    return found.group(1).replace("\\\n", " ")


def test_both_ways_give_the_image_the_same_configuration(assemble: ModuleType) -> None:
    config: dict[str, Any] = assemble.IMAGE_CONFIG
    labels = dict(re.findall(r'(\S+)="(.*?)"', _instruction("LABEL")))
    assert json.loads(_instruction("ENTRYPOINT")) == config["Entrypoint"]
    assert _instruction("USER") == config["User"]
    assert _instruction("WORKDIR") == config["WorkingDir"]
    assert [f"{port}/tcp" for port in _instruction("EXPOSE").split()] == list(config["ExposedPorts"])
    assert _instruction("ENV").split() == [each for each in config["Env"] if not each.startswith("PATH=")]
    assert labels == config["Labels"]


def test_both_ways_install_and_compile_the_same(assemble: ModuleType) -> None:
    script = (_ROOT / "operator/image/assemble.py").read_text()
    for file in ("requirements/operator.txt", "requirements/build.txt"):
        assert file in _DOCKERFILE
        assert file in script
    assert _DOCKERFILE.count("--require-hashes --only-binary :all:") == 2
    assert f"'{assemble._NOT_COMPILED}'" in _DOCKERFILE
    # One Python, since bytecode and wheels are of one.
    assert set(re.findall(r"^FROM (\S+)", _DOCKERFILE, re.MULTILINE)) == {
        f"python:{assemble._PYTHON}-slim-{assemble._SUITE}"
    }


def test_the_uid_is_that_of_the_chart() -> None:
    values = (_ROOT / "charts/metainf/values.yaml").read_text()
    assert f"runAsUser: {_instruction('USER').partition(':')[0]}\n" in values


def test_there_is_a_user_name_for_a_uid_without_an_account() -> None:
    # kopf asks getpass.getuser() for it at the start, and ends where nobody knows.
    assert "USER=" in _instruction("ENV")


@pytest.mark.parametrize("file", _REQUIREMENTS, ids=lambda file: str(file.name))
def test_requirements_are_pinned_with_hashes_and_name_no_registry(file: Path) -> None:
    text = file.read_text()
    pins = re.findall(r"^([a-z0-9][a-z0-9._-]*)(\S*)", text, re.MULTILINE)
    assert pins
    assert [name for name, version in pins if not version.startswith("==")] == []
    assert text.count("--hash=sha256:") >= len(pins)
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links|@ ", text)


def test_the_operator_needs_no_compiler_and_no_training_library() -> None:
    text = (_ROOT / "requirements/operator.txt").read_text()
    for name in ("torch", "scikit-learn", "lightgbm", "numba", "pandas", "vllm", "scipy"):
        assert not re.search(rf"^{name}==", text, re.MULTILINE), name
    assert not re.search(r"apt-get|gcc|g\+\+|build-essential", _DOCKERFILE)


def test_what_the_operator_depends_on_is_pinned() -> None:
    project = (_ROOT / "pyproject.toml").read_text()
    pinned = (_ROOT / "requirements/operator.txt").read_text()
    wanted = "".join(re.findall(r"^(?:dependencies|operator) = \[(.*?)\]", project, re.MULTILINE | re.DOTALL))
    names = re.findall(r'"([A-Za-z0-9-]+)', wanted)
    assert "kopf" in names
    for name in names:
        assert re.search(rf"^{name}==", pinned, re.MULTILINE), f"compile requirements/operator.txt anew: {name}"


# Layers


def _tree(folder: Path) -> Path:
    (folder / "usr/bin").mkdir(parents=True)
    (folder / "usr/bin/python3.11").write_text("#!")
    (folder / "usr/bin/python3.11").chmod(0o700)
    (folder / "usr/bin/python3").symlink_to("python3.11")
    (folder / "etc").mkdir()
    (folder / "etc/secretive").write_text("x")
    (folder / "etc/secretive").chmod(0o600)
    (folder / "var/log").mkdir(parents=True)
    (folder / "var/log/install.log").write_text("who and when")
    return folder


def _archive(assemble: ModuleType, folder: Path, output: Path) -> str:
    layer = assemble.Layer(folder, "", ("var/log",), ("var/log", "tmp"))
    application = assemble.Layer(folder / "etc", "opt/metainf")
    found: str = assemble.write_archive([layer, application], output, "docker.io/library/x:1")
    return found


def _members(layer: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        return archive.getmembers()


def test_the_same_content_is_the_same_image(assemble: ModuleType, tmp_path: Path) -> None:
    first = _archive(assemble, _tree(tmp_path / "a"), tmp_path / "a.tar")
    second = _archive(assemble, _tree(tmp_path / "b"), tmp_path / "b.tar")
    assert first == second
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_an_archive_is_what_docker_load_takes(assemble: ModuleType, tmp_path: Path) -> None:
    image_id = _archive(assemble, _tree(tmp_path / "a"), tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as archive:
        files = {member.name: archive.extractfile(member) for member in archive}
        contents = {name: file.read() for name, file in files.items() if file is not None}
    (manifest,) = json.loads(contents["manifest.json"])
    config = json.loads(contents[manifest["Config"]])
    assert f"sha256:{manifest['Config'].removesuffix('.json')}" == image_id
    assert manifest["RepoTags"] == ["docker.io/library/x:1"]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{name.removesuffix('.tar')}" for name in manifest["Layers"]]
    base, application = (_members(contents[name]) for name in manifest["Layers"])
    members = {member.name: member for member in base}
    assert "var/log/install.log" not in members
    assert members["var/log"].isdir()
    assert members["tmp"].mode == 0o1777
    assert members["usr/bin/python3"].linkname == "python3.11"
    # Readable to the uid that runs it, whatever the umask of whoever assembled it.
    assert members["usr/bin/python3.11"].mode == 0o755
    assert members["etc/secretive"].mode == 0o644
    assert {(member.uid, member.gid, member.mtime) for member in members.values()} == {(0, 0, assemble._EPOCH_S)}
    assert [member.name for member in application] == ["opt", "opt/metainf", "opt/metainf/secretive"]


def test_trimming_leaves_what_is_imported(trim: ModuleType, tmp_path: Path) -> None:
    kept = {
        "kopf-1.dist-info/licenses/LICENSE",
        "kopf/__init__.py",
        "kopf/py.typed",
        "numpy/_core/tests/b.py",
        "numpy/testing/a.py",
    }
    for name in (*kept, "numpy/lib/tests/c.py", "numpy/x.pyi", "bin/kopf", "a/__pycache__/d.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    assert trim.trim(tmp_path) == 4 * 4
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == kept
