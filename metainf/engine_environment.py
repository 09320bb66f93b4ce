"""The door to an installed vLLM: runs the probe under its interpreter and reads what it answers.

Separate because vLLM lives in an environment of its own, which this process neither imports nor trusts to answer: it
may be missing, broken, or end in the middle. What comes back is checked before anybody builds on it.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from metainf.errors import ArtifactError, InvalidWorkloadError, MetaInfError
from metainf.flag_catalogue import CatalogueOrigin, FlagCatalogue, FlagKind, FlagSpec

__all__ = ["CaseAnswer", "EngineAnswer", "EngineAnswerError", "EngineEnvironment"]

_PROBE = Path(__file__).with_name("engine_probe.py")
_POLL_S = 0.2
_LEFT_OUT = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV")
# Nothing is to be fetched or sent, and one thread is enough to read arguments.
_SETTINGS = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
_SIZES = frozenset({"human_readable_int", "human_readable_int_or_auto"})
_NUMBERS = {"int": FlagKind.INT, "check_port": FlagKind.INT, "float": FlagKind.FLOAT, "json": FlagKind.JSON}


class EngineAnswerError(MetaInfError):
    """The installed vLLM did not answer; the message holds the last that it said."""


@dataclass(frozen=True, slots=True)
class CaseAnswer:
    """What vLLM says to one list of arguments: what they come to, or the refusal and where it was met.

    `stage` is "name" (no such flag by that exact name), "parser" or "config"; `where` is the file of vLLM.
    """

    resolved: Mapping[str, Any] | None
    stage: str = ""
    error: str = ""
    where: str = ""


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    """What an installed vLLM says of itself, of the machine that it was asked on (`amx_tile`) and of cases."""

    catalogue: FlagCatalogue
    amx_tile: bool
    cases: tuple[CaseAnswer, ...]


@dataclass(frozen=True, slots=True)
class EngineEnvironment:
    """A vLLM that is installed for an interpreter, or laid over one (`overlay`: a folder of `pip install --target`)."""

    python: Path
    overlay: Path | None = None

    def ask(
        self,
        cases: Sequence[Sequence[str]] = (),
        *,
        timeout_s: float = 300.0,
        report: Callable[[int], None] | None = None,
    ) -> EngineAnswer:
        """Every flag that its parser takes, and what parser and engine configuration say to each case, in their order.

        The first argument of a case is the model's folder. `report` hears now and then how many cases were begun.

        Raises
        ------
        InvalidWorkloadError
            There is no such interpreter or folder.
        EngineAnswerError
            vLLM cannot be imported there, fails, or takes too long.
        """
        raw = self._ask({"cases": [list(case) for case in cases]}, timeout_s, report)
        try:
            flags = [_spec(each) for each in raw["flags"]]
            answers = tuple(_case(each) for each in raw["cases"])
            origin = CatalogueOrigin(**{key: str(value) for key, value in raw["origin"].items()})
            amx_tile = bool(raw["amx_tile"])
        except (KeyError, TypeError, AttributeError) as exc:
            raise EngineAnswerError(f"reading the answer of {self.python}: {type(exc).__name__}: {exc}") from exc
        if len(answers) != len(cases):
            raise EngineAnswerError(f"reading the answer of {self.python}: {len(answers)} to {len(cases)} cases")
        return EngineAnswer(FlagCatalogue(origin, {spec.name: spec for spec in flags}), amx_tile, answers)

    def _ask(self, request: dict[str, Any], timeout_s: float, report: Callable[[int], None] | None) -> dict[str, Any]:
        if not (self.python.is_file() and os.access(self.python, os.X_OK)):
            raise InvalidWorkloadError(f"{self.python} is not an interpreter that can be run")
        if self.overlay is not None and not self.overlay.is_dir():
            raise InvalidWorkloadError(f"{self.overlay} is not a folder")
        with TemporaryDirectory(prefix="metainf-flags-") as name:
            return self._ask_in(Path(name), request, timeout_s, report)

    def _ask_in(
        self, folder: Path, request: dict[str, Any], timeout_s: float, report: Callable[[int], None] | None
    ) -> dict[str, Any]:
        """Run a copy of the probe in a folder of its own, so that nothing beside it is imported by chance."""
        progress, program, asked = folder / "progress", folder / "probe.py", folder / "request.json"
        progress.touch()
        program.write_bytes(_PROBE.read_bytes())
        asked.write_text(json.dumps({**request, "progress": str(progress)}), encoding="utf-8")
        environment = {key: value for key, value in os.environ.items() if key not in _LEFT_OUT} | _SETTINGS
        environment |= {"VLLM_CACHE_ROOT": str(folder / "cache"), "VLLM_CONFIG_ROOT": str(folder / "config")}
        if self.overlay is not None:
            environment["PYTHONPATH"] = str(self.overlay.absolute())
        with (folder / "answer").open("wb") as out, (folder / "log").open("wb") as log:
            command = [str(self.python.absolute()), str(program), str(asked)]
            with subprocess.Popen(
                command, stdout=out, stderr=log, cwd=folder, env=environment, start_new_session=True
            ) as process:
                try:
                    code = _wait(process, progress, timeout_s, report)
                finally:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)  # with whatever it started
        done = progress.stat().st_size
        if code != 0:
            what = "took too long" if code is None else f"ended with code {code}"
            at = f" at case {done}" if done else ""
            raise EngineAnswerError(f"asking the vLLM of {self.python}: it {what}{at}: {_tail(folder / 'log')}")
        try:
            answer = json.loads((folder / "answer").read_text(encoding="utf-8"))
        except ValueError as exc:
            raise EngineAnswerError(f"asking the vLLM of {self.python}: its answer is not JSON: {exc}") from exc
        if not isinstance(answer, dict):
            raise EngineAnswerError(f"asking the vLLM of {self.python}: its answer is not an object")
        return answer


def _wait(
    process: subprocess.Popen[bytes], progress: Path, timeout_s: float, report: Callable[[int], None] | None
) -> int | None:
    """The exit code; None where time ran out. Each case that is begun adds a byte to the progress file."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            return process.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            if report is not None:
                report(progress.stat().st_size)
    return None


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-3:])[-600:] or "it said nothing"


def _case(raw: Mapping[str, Any]) -> CaseAnswer:
    resolved = raw.get("resolved")
    return CaseAnswer(
        resolved if isinstance(resolved, dict) else None,
        *(str(raw.get(key, "")) for key in ("stage", "error", "where")),
    )


def _spec(raw: Mapping[str, Any]) -> FlagSpec:
    """A flag as the catalogue has it, from what argparse holds of it."""
    options = [str(each) for each in raw["options"]]
    switch = raw["action"] == "BooleanOptionalAction"
    negations = tuple(o for o in options if switch and o.startswith("--no-") and "--" + o[5:] in options)
    own = [option for option in options if option not in negations]
    first = next((option for option in own if option.startswith("--")), None)
    if first is None:
        raise ArtifactError(f"reading the flags of vLLM: {', '.join(options)} has no long name")
    default = raw["default"]
    return FlagSpec(
        name=first.removeprefix("--"),
        kind=FlagKind.SWITCH if switch else _kind(raw),
        aliases=tuple(option for option in own if option != first),
        negations=negations,
        default=tuple(default) if isinstance(default, list) else default,
        choices=tuple(raw["choices"] or ()),
        folds_choices=raw["folds"],
        group=raw["group"],
        config=raw["config"],
        nargs="" if raw["nargs"] in (None, 0) else str(raw["nargs"]),
        deprecated=raw["deprecated"],
    )


def _kind(raw: Mapping[str, Any]) -> FlagKind:
    if raw["nargs"] == 0:
        return FlagKind.FLAG
    if raw["nargs"] == "?":
        return FlagKind.OPTIONAL
    if raw["nargs"] is not None:
        return FlagKind.LIST
    if raw["choices"]:
        return FlagKind.CHOICE
    if raw["type"] in _SIZES:
        return FlagKind.SIZE
    return _NUMBERS.get(raw["type"], FlagKind.STR)
