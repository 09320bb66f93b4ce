"""A model for real vLLM, made on the spot: random weights, a tokeniser of whole words, a chat template.

Separate from the environment, which many models can be served from. What it writes is of no use and costs what a
trained model's does; nothing has to be fetched.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

from metainf.bench.processes import PROGRAMS
from metainf.bench.small_models import SmallModel

from .binaries import cache_folder, locked
from .engine import Engine
from .model import ClusterSetupError
from .progress import Progress

__all__ = ["engine_model"]

_CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
_SEED = "0"


def engine_model(model: SmallModel, engine: Engine, progress: Progress, cache: Path | None = None) -> Path:
    """Give the folder of a model: from the cache, else made by the engine's own libraries."""
    fields = json.dumps(dict(model.config), sort_keys=True)
    program = PROGRAMS / "make_model.py"
    made_of = "\0".join([fields, _CHAT_TEMPLATE, _SEED, program.read_text(encoding="utf-8"), engine.version])
    home = (cache or cache_folder()) / "vllm"
    folder = home / f"{model.name}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}"
    with locked(home / "model.lock", progress):
        if folder.is_dir():
            return folder
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        config = partial / "asked.json"
        config.write_text(fields, encoding="utf-8")
        command = [str(engine.python), str(program), str(config), str(partial), _SEED]
        with progress.task(f"making the model {model.name}"):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterSetupError(f"making the model {model.name}: {done.stderr.strip()[-1000:]}")
        (partial / "chat_template.jinja").write_text(_CHAT_TEMPLATE, encoding="utf-8")
        for file in partial.iterdir():
            file.chmod(0o644)  # safetensors writes for its user alone, and a pod is another
        partial.rename(folder)
    return folder
