"""A program for the Python of an installed vLLM: what its own argument parser takes, and what its engine makes of it.

Separate and whole in itself, since it runs in another environment than ours: it imports nothing of MetaInf and needs
no Python newer than 3.10. `engine_environment` copies it there, runs it and reads its answer. It reads a request from
the file that it is given, and writes JSON to what was its standard output; whatever vLLM prints goes to the standard
error instead.

    {"cases": [[ARG, ...]], "progress": FILE}
        -> every flag of the parser, whether the CPU has AMX tiles, and for each case whether parser and engine
           configuration take it
"""

import argparse
import contextlib
import copy
import enum
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import io
import json
import os
import platform
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

PARSERS = (
    "vllm.entrypoints.launchers.cli_args",  # from 0.30 on
    "vllm.entrypoints.openai.cli_args",
)
"""Modules that have `make_arg_parser`, the newest first."""

_PARSER_CLASS = ("vllm.utils.argparse_utils", "FlexibleArgumentParser")
_WRAPPED = ("return_type", "cls")  # what vLLM's converters keep of the type that they convert to


def main(request_path: str) -> int:
    """Answer the request in the file."""
    answer_to = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # vLLM logs to the standard output
    with open(request_path, encoding="utf-8") as file:
        request = json.load(file)
    parser, source = engine_parser()
    flags = [described(*each) for each in options_of(parser)]
    if request["cases"]:
        stand_in_for_missing()
        look_at_models_here()
    with open(request["progress"], "a", encoding="utf-8", buffering=1) as progress:
        cases = [checked(parser, case, progress.write) for case in request["cases"]]
    json.dump({"origin": origin(source), "amx_tile": amx_tile(), "flags": flags, "cases": cases}, answer_to)
    answer_to.close()
    return 0


def engine_parser() -> tuple[argparse.ArgumentParser, str]:
    """The parser of `vllm serve`, and the function that made it."""
    parser_class = getattr(importlib.import_module(_PARSER_CLASS[0]), _PARSER_CLASS[1])
    for name in PARSERS:
        with contextlib.suppress(ModuleNotFoundError):
            module = importlib.import_module(name)
            return module.make_arg_parser(parser_class()), f"{name}.make_arg_parser"
    raise ModuleNotFoundError(f"none of {', '.join(PARSERS)} is in this vLLM")


def origin(source: str) -> dict[str, str]:
    """The installed version, its package, and where it runs."""
    platforms: Any = importlib.import_module("vllm.platforms")
    return {
        "engine": importlib.import_module("vllm").__version__,
        "distribution": _distribution(_folder()),
        "parser": source,
        "platform": platforms.current_platform.device_name,
        "python": ".".join(platform.python_version_tuple()[:2]),
    }


def amx_tile() -> bool:
    """Whether this machine's CPU has AMX tiles, by the call that vLLM itself decides by (vllm/platforms/cpu.py)."""
    return bool(importlib.import_module("torch").cpu._is_amx_tile_supported())


def _folder() -> str:
    """Where the package vllm is."""
    return os.path.dirname(os.path.dirname(os.path.abspath(str(importlib.import_module("vllm").__file__))))


def _distribution(folder: str) -> str:
    """The package that vLLM was installed from into the folder: an overlay's comes before that of the base."""
    for distribution in importlib.metadata.distributions(path=[folder]):
        name = distribution.metadata["Name"]
        if name == "vllm" or name.startswith("vllm-") or name.startswith("vllm_"):
            return f"{name} {distribution.version}"
    return "unknown"


def options_of(parser: argparse.ArgumentParser) -> Iterator[tuple[argparse.Action, str, bool]]:
    """Every option, the heading that help has it under, and whether it is deprecated; the model's place is left out."""
    deprecated: set[argparse.Action] = getattr(parser, "_deprecated", set())
    for group in parser._action_groups:
        for action in group._group_actions:
            if action.option_strings:
                yield action, group.title or "", action in deprecated or bool(getattr(action, "deprecated", False))


def described(action: argparse.Action, group: str, deprecated: bool) -> dict[str, Any]:
    """One option as plain values."""
    converter, config = converter_of(action.type)
    choices = action.choices if isinstance(action.choices, list | tuple | type(None)) else sorted(action.choices)
    return {
        "options": list(action.option_strings),
        "action": type(action).__name__.lstrip("_"),
        "nargs": action.nargs,
        "type": converter,
        "config": config,
        "choices": None if choices is None else [str(plain(each)) for each in choices],
        "folds": choices is not None and callable(action.type) and _folds(action.type),
        "default": plain(action.default),
        "group": group,
        "deprecated": deprecated or "Deprecated" in type(action).__name__,
    }


def _folds(converter: Callable[[str], Any]) -> bool:
    """Whether upper case and dashes are taken for lower case and underscores."""
    with contextlib.suppress(Exception):
        return bool(converter("A-b") == "a_b")
    return False


def converter_of(converter: Any) -> tuple[str, str]:
    """The name of what converts a value, and the configuration class that it fills; vLLM wraps types in functions."""
    for _ in range(8):
        wrapped = _wrapped(converter)
        if wrapped is None:
            break
        if isinstance(wrapped, type) and wrapped.__module__.startswith("vllm."):
            return "json", wrapped.__name__
        converter = wrapped
    name = getattr(converter, "__name__", "") if converter is not None else "str"
    return ("json" if name == "loads" else name), ""


def _wrapped(converter: Any) -> Any:
    code = getattr(converter, "__code__", None)
    if code is None:
        return None
    named = dict(zip(code.co_freevars, converter.__closure__ or (), strict=False))
    for name in _WRAPPED:
        if name in named:
            return named[name].cell_contents
    defaults = converter.__defaults__ or ()
    arguments = code.co_varnames[: code.co_argcount]
    return dict(zip(arguments[len(arguments) - len(defaults) :], defaults, strict=True)).get("cls")


def plain(value: Any) -> Any:
    """The value where JSON can hold it, a list of such; None for what is made at start and for no default at all."""
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, str):
        return None if value == argparse.SUPPRESS else value
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple) and all(isinstance(each, str | int | float) for each in value):
        return list(value)
    return None


def checked(parser: argparse.ArgumentParser, case: Sequence[str], say: Callable[[str], Any]) -> dict[str, Any]:
    """What the parser, and then the engine's configuration, say to arguments; the first refusal ends it."""
    say("\n")
    inexact = [argument for argument in case if argument.startswith("--") and not _exact(parser, argument)]
    if inexact:
        return {"stage": "name", "error": f"no flag of the parser: {', '.join(inexact)}"}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            namespace = parser.parse_args(list(case))
    except SystemExit:
        return {"stage": "parser", "error": said.getvalue().strip().rpartition("error: ")[2][:600]}
    except Exception as error:
        return {"stage": "parser", "error": _sentence(error)}
    namespace = copy.deepcopy(namespace)  # defaults that are objects are shared by all parses
    if getattr(namespace, "model_tag", None) is not None:
        namespace.model = namespace.model_tag
    try:
        return {"resolved": resolved(namespace)}
    except Exception as error:
        return {"stage": "config", "error": _sentence(error), "where": _where(error)}


def look_at_models_here() -> None:
    """Let vLLM import a model's class in this process: it starts one for each, lest CUDA be set up, which takes 5 s.

    Source: vLLM 0.28.0 to 0.32.0 vllm/model_executor/models/registry.py, _LazyRegisteredModel.inspect_model_cls.
    """
    registry: Any = importlib.import_module("vllm.model_executor.models.registry")
    registry._run_in_subprocess = lambda function: function()


class Nothing(types.ModuleType):
    """A module in which every name is there and is nothing."""

    def __getattr__(self, name: str) -> Any:
        """Another one, but for what Python itself asks for."""
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing(f"{self.__name__}.{name}")

    def __call__(self, *_: Any, **__: Any) -> Any:
        """As a function or a class that is called while a module is loaded."""
        return self


class StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules of a package that is not installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """The package and whatever is in it."""
        if fullname.partition(".")[0] != self.package:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """Nothing under that name."""
        return Nothing(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing to run."""


def stand_in_for_missing() -> None:
    """Let models that can see be looked at without torchvision, which builds for CPUs come without.

    Their files import it on top for the pictures; what is looked at are the names of their classes' functions.
    """
    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.append(StandIn("torchvision"))


def _exact(parser: argparse.ArgumentParser, argument: str) -> bool:
    return argument.partition("=")[0] in parser._option_string_actions


def _sentence(error: Exception) -> str:
    """The error in a line; of pydantic's, whose text is long, what was raised inside."""
    found = getattr(error, "errors", None)
    text = found()[0]["msg"] if callable(found) else str(error)
    return f"{type(error).__name__}: {' '.join(str(text).split())}"[:600]


def _where(error: Exception) -> str:
    """The configuration that pydantic refused, or else the innermost file of vLLM, as `vllm/config/parallel.py`."""
    if callable(getattr(error, "errors", None)):
        return str(getattr(error, "title", ""))
    found, trace, folder = "", error.__traceback__, os.path.join(_folder(), "vllm", "")
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        found = name.removeprefix(folder) if name.startswith(folder) else found
        trace = trace.tb_next
    return f"vllm/{found.replace(os.sep, '/')}" if found else ""


def resolved(namespace: argparse.Namespace) -> dict[str, Any]:
    """What the engine runs with, every default worked out, as an API server has it made."""
    arg_utils = importlib.import_module("vllm.engine.arg_utils")
    usage = importlib.import_module("vllm.usage.usage_lib").UsageContext.OPENAI_API_SERVER
    config = arg_utils.AsyncEngineArgs.from_cli_args(namespace).create_engine_config(usage_context=usage)
    cache, scheduler, model = config.cache_config, config.scheduler_config, config.model_config
    speculation = config.speculative_config
    return {
        "prefix_caching": bool(cache.enable_prefix_caching),
        "chunked_prefill": bool(scheduler.enable_chunked_prefill),
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "max_num_seqs": scheduler.max_num_seqs,
        "long_prefill_token_threshold": scheduler.long_prefill_token_threshold,
        "max_model_len": model.max_model_len,
        "kv_cache_dtype": str(cache.cache_dtype),
        "gpu_memory_utilization": cache.gpu_memory_utilization,
        "block_tokens": cache.block_size,
        "asynchronous_scheduling": bool(scheduler.async_scheduling),
        "stream_interval": scheduler.stream_interval,
        "speculation": None if speculation is None else [speculation.method, speculation.num_speculative_tokens],
        "quantization": model.quantization,
        "dtype": str(model.dtype),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
