"""The bundled models, and the order in which a model is looked for."""

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from metainf import model_resolution
from metainf.errors import InvalidWorkloadError, UnknownModelError
from metainf.hub import HubConfig
from metainf.known_models import known_model, known_model_config, known_model_ids
from metainf.model_resolution import ModelSource, resolve_model

DATA = Path(__file__).parent / "data"
TOTALS = json.loads((DATA / "architecture_totals.json").read_text())["bundled"]
CONFIG = DATA / "model_configs" / "llama-3.1-8b-instruct.json"
FOLDER = resources.files("metainf").joinpath("data", "models")


@pytest.mark.parametrize("model_id", sorted(TOTALS))
def test_a_bundled_model_has_the_parameters_that_its_own_code_has(model_id):
    assert known_model(model_id).parameters == TOTALS[model_id]


def test_every_bundled_entry_is_compared_and_states_its_source():
    entries = [entry for file in FOLDER.iterdir() for entry in json.loads(file.read_text())["models"]]
    assert {entry["ids"][0] for entry in entries} == set(TOTALS)
    assert all("Apache-2.0" in entry["source"] for entry in entries)


def test_there_are_at_least_forty_and_no_id_twice():
    ids = [i for file in FOLDER.iterdir() for entry in json.loads(file.read_text())["models"] for i in entry["ids"]]
    assert len(TOTALS) >= 40
    assert len({each.lower() for each in ids}) == len(ids)
    assert sorted(ids) == list(known_model_ids())


def test_the_bundle_is_small():
    assert sum(len(file.read_bytes()) for file in FOLDER.iterdir()) < 150_000


@pytest.mark.parametrize(
    ("model_id", "published_billion"),
    [
        # Source: the number of parameters that the model's page on the hub states, vision towers left out.
        pytest.param("Qwen/Qwen2.5-0.5B-Instruct", 0.494, id="Qwen 2.5 0.5B, tied"),
        pytest.param("Qwen/Qwen2.5-3B-Instruct", 3.09, id="Qwen 2.5 3B, tied"),
        pytest.param("Qwen/Qwen2.5-72B-Instruct", 72.7, id="Qwen 2.5 72B"),
        pytest.param("Qwen/Qwen3-0.6B", 0.6, id="Qwen 3 0.6B, arXiv 2505.09388"),
        pytest.param("meta-llama/Llama-3.2-1B-Instruct", 1.23, id="Llama 3.2 1B, model card"),
        pytest.param("meta-llama/Llama-3.2-3B-Instruct", 3.21, id="Llama 3.2 3B, model card"),
        pytest.param("mistralai/Mistral-7B-v0.1", 7.24, id="Mistral 7B"),
        pytest.param("google/gemma-2-27b-it", 27.2, id="Gemma 2 27B, arXiv 2408.00118: 1.18 + 26.05"),
        pytest.param("google/gemma-3-27b-it", 27.01, id="Gemma 3 27B, arXiv 2503.19786: 1.416 + 25.6"),
        pytest.param("microsoft/phi-4", 14.66, id="Phi 4"),
        pytest.param("microsoft/Phi-3-mini-4k-instruct", 3.82, id="Phi 3 mini, arXiv 2404.14219: 3.8B"),
        pytest.param("deepseek-ai/DeepSeek-V3", 671, id="DeepSeek V3, arXiv 2412.19437"),
        pytest.param("openai/gpt-oss-20b", 20.91, id="gpt-oss-20b, arXiv 2508.10925"),
        pytest.param("openai/gpt-oss-120b", 116.83, id="gpt-oss-120b, arXiv 2508.10925"),
        pytest.param("mistralai/Mixtral-8x22B-v0.1", 140.6, id="Mixtral 8x22B"),
        pytest.param("meta-llama/Llama-3.1-405B", 405.9, id="Llama 3.1 405B"),
        pytest.param("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 31.6, id="Nemotron 3 Nano, NVIDIA"),
    ],
)
def test_a_bundled_total_is_within_one_percent_of_the_published_one(model_id, published_billion):
    assert known_model(model_id).parameters / 1e9 == pytest.approx(published_billion, rel=0.01)


def test_upper_and_lower_case_do_not_matter():
    assert known_model("qwen/qwen2.5-7b-instruct") is known_model("Qwen/Qwen2.5-7B-Instruct")
    assert known_model("qwen/QWEN2.5-7B-instruct").name == "Qwen/Qwen2.5-7B-Instruct"


def test_an_unknown_id_is_none():
    assert known_model("nobody/nothing") is None
    assert known_model_config("nobody/nothing") is None


def test_importing_the_library_imports_no_hub_client():
    code = (
        "import sys, metainf, metainf.hub, metainf.known_models, metainf.model_resolution;"
        "print('huggingface_hub' in sys.modules, metainf.known_models._catalogue.cache_info().currsize)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "0"]


@pytest.fixture
def hub(monkeypatch):
    """The hub's answers, and who asked."""
    asked = []

    def fetch(model_id, revision=None, *, token=None, timeout_s=10):
        asked.append((model_id, revision, token))
        return HubConfig(model_id, "c" * 40, json.loads(CONFIG.read_text()))

    monkeypatch.setattr(model_resolution, "fetch_config", fetch)
    return asked


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(CONFIG.read_text())
    return tmp_path


def test_a_folder_is_read(folder, hub):
    found = resolve_model(str(folder))
    assert (found.source, found.revision) == (ModelSource.FILE, None)
    assert found.architecture.parameters == 8_030_261_248
    assert hub == []


def test_a_file_is_read(hub):
    assert resolve_model(str(CONFIG)).architecture.layers == 32


def test_a_folder_with_modelopts_file_is_quantised(folder, hub):
    (folder / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    assert resolve_model(str(folder)).architecture.quantization == "modelopt"


def test_a_relative_folder_that_exists_comes_before_the_bundle(folder, hub, monkeypatch):
    nested = folder / "Qwen" / "Qwen2.5-7B-Instruct"
    nested.mkdir(parents=True)
    (nested / "config.json").write_text(CONFIG.read_text())
    monkeypatch.chdir(folder)
    assert resolve_model("Qwen/Qwen2.5-7B-Instruct").source is ModelSource.FILE


def test_a_bundled_id_needs_no_hub(hub):
    found = resolve_model("qwen/qwen2.5-7b-instruct")
    assert found.source is ModelSource.BUNDLED
    assert hub == []


def test_a_revision_is_asked_of_the_hub(hub):
    found = resolve_model("Qwen/Qwen2.5-7B-Instruct", revision="main", token="t")
    assert (found.source, found.revision) == (ModelSource.HUB, "c" * 40)
    assert hub == [("Qwen/Qwen2.5-7B-Instruct", "main", "t")]


def test_other_ids_are_asked_of_the_hub(hub):
    assert resolve_model("somebody/something").architecture.name == "somebody/something"
    assert hub == [("somebody/something", None, None)]


def test_without_the_hub_other_ids_are_unknown(hub):
    with pytest.raises(UnknownModelError, match="not among the bundled models"):
        resolve_model("somebody/something", allow_hub=False)
    assert hub == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"{", "not valid JSON", id="cut off"),
        pytest.param(b"\xff\xfe\x00", "not valid JSON", id="not text"),
        pytest.param(b"[" * 100_000, "not valid JSON", id="nested without end"),
        pytest.param(b"[]", "must be a JSON object", id="a list"),
        pytest.param(b" " * (5 * 1024 * 1024) + b"{}", "must be a JSON object of at most", id="too large"),
        pytest.param(b"{}", "architectures is missing", id="empty"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InvalidWorkloadError, match=message):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize("ref", ["/no/such/folder", "./nowhere", "missing.json"])
def test_a_path_that_is_not_there_is_unknown(ref, hub):
    with pytest.raises(UnknownModelError, match="reading"):
        resolve_model(ref)
    assert hub == []


@pytest.mark.parametrize("ref", ["", "a\0b", "~nosuchuser/model"])
def test_what_is_no_reference_is_refused(ref, hub):
    with pytest.raises(InvalidWorkloadError):
        resolve_model(ref)
