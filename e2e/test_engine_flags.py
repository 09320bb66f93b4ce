"""What we would tell vLLM, judged by vLLM itself: every method and layout for every model, in each catalogued version.

Separate from the stories: no cluster is needed, but real vLLM, which is installed once into the cache. A CPU's platform
judges; what only a GPU's would look at is named in what the command prints. Each version takes a minute of a core.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from e2e.cluster.engine import ENGINE_VERSION, OVERLAY_VERSIONS, Engine, build_engine, why_no_engine
from e2e.cluster.progress import Progress
from metainf.cli.flags import written_models
from metainf.engine_environment import CaseAnswer, EngineEnvironment
from metainf.engine_versions import known_engine_versions
from metainf.known_models import known_model_config

_REASON = why_no_engine()
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(_REASON), reason=_REASON or "")]

_ROOT = Path(__file__).parents[1]
_CONFIGS = _ROOT / "tests" / "data" / "model_configs"
_CATALOGUES = _ROOT / "metainf" / "data" / "flags"
_LLAMA, _HYBRID, _LATENT = "Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen3.5-27B", "deepseek-ai/DeepSeek-V3"


def _engine(version: str) -> Engine:
    return build_engine(version, Progress())


def _flags(action: str, engine: Engine, *more: str) -> subprocess.CompletedProcess[str]:
    where = ["--python", str(engine.python)]
    where += [] if engine.overlay is None else ["--pythonpath", str(engine.overlay)]
    command = [sys.executable, "-m", "metainf", "flags", action, *where, *more]
    # Names in sets come in another order in every process: no catalogue may depend on it.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONHASHSEED"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_every_version_that_can_be_installed_here_is_catalogued() -> None:
    assert {*OVERLAY_VERSIONS, ENGINE_VERSION} == set(known_engine_versions())


@pytest.mark.parametrize("version", [*OVERLAY_VERSIONS, ENGINE_VERSION])
def test_vllm_takes_every_method_and_every_layout_for_every_model(version: str) -> None:
    told = _flags("check", _engine(version), "--version", version, "--quick", "--configs", str(_CONFIGS))
    assert told.returncode == 0, told.stdout + told.stderr
    counted = re.search(r"(\d+) of (\d+) cases are taken.*: (\d+) models, (\d+) methods, (\d+) layouts", told.stdout)
    assert counted is not None, told.stdout
    taken, asked, models, methods, layouts = map(int, counted.groups())
    assert taken == asked >= 4000
    assert models >= 81
    assert methods >= 23
    assert layouts >= 16
    assert "Not checked by a cpu platform" in told.stdout


def test_the_catalogue_that_is_kept_is_what_the_command_writes(tmp_path: Path) -> None:
    told = _flags("generate", _engine(ENGINE_VERSION), "--out", str(tmp_path))
    assert told.returncode == 0, told.stderr
    name = f"{ENGINE_VERSION}.json"
    assert (tmp_path / name).read_bytes() == (_CATALOGUES / name).read_bytes()


@pytest.fixture(scope="module")
def refused() -> Iterator[dict[str, CaseAnswer]]:
    """What vLLM says to arguments that cannot be right, by their names in `_WRONG`."""
    engine = _engine(ENGINE_VERSION)
    with TemporaryDirectory() as folder:
        names = dict.fromkeys(model for model, _, _, _ in _WRONG.values())
        places = written_models(Path(folder), {name: known_model_config(name) or {} for name in names})
        cases = [(places[model].model, *arguments) for model, arguments, _, _ in _WRONG.values()]
        answer = EngineEnvironment(engine.python, engine.overlay).ask(cases)
    yield dict(zip(_WRONG, answer.cases, strict=True))


_WRONG = {
    "an abbreviation": (_LLAMA, ["--max-num-batched-token", "512"], "name", "--max-num-batched-token"),
    "a flag that is gone": (_LLAMA, ["--swap-space", "4"], "name", "--swap-space"),
    "no number": (_LLAMA, ["--max-num-seqs", "many"], "parser", "invalid int value"),
    "no choice": (_LLAMA, ["--kv-cache-dtype", "fp7"], "parser", "invalid choice"),
    "no speculation": (
        _LLAMA,
        ["--speculative-config", '{"method":"ngrams","num_speculative_tokens":4}'],
        "config",
        "Input should be 'ngram'",
    ),
    "heads that do not divide": (_LLAMA, ["--tensor-parallel-size", "8"], "config", "divisible"),
    "a context beyond the model's": (_LLAMA, ["--max-model-len", "1000000"], "config", "max_model_len"),
    "more sequences than tokens": (
        _LLAMA,
        ["--max-num-batched-tokens", "64", "--max-num-seqs", "128"],
        "config",
        "max_num_seqs",
    ),
    "no chunks and a small step": (
        _LLAMA,
        ["--no-enable-chunked-prefill", "--max-num-batched-tokens", "512"],
        "config",
        "max_model_len",
    ),
    "a prefix cache of recurrent states without chunks": (
        _HYBRID,
        ["--no-enable-chunked-prefill"],
        "config",
        "Chunked prefill is required",
    ),
    "MTP without its layers": (
        _LLAMA,
        ["--speculative-config", '{"method":"mtp","num_speculative_tokens":1}'],
        "config",
        "mtp",
    ),
    "another quantisation than the checkpoint's": (_LATENT, ["--quantization", "awq"], "config", "quantization"),
}


@pytest.mark.parametrize("name", _WRONG)
def test_vllm_refuses_what_our_rules_turn_down(refused: dict[str, CaseAnswer], name: str) -> None:
    _, _, stage, says = _WRONG[name]
    answer = refused[name]
    assert answer.resolved is None, f"vLLM takes it: {answer.resolved}"
    assert answer.stage == stage, answer.error
    assert says in answer.error
