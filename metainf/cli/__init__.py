"""The `metainf` command: finds the subcommand, runs it, and turns what goes wrong into a sentence and an exit code.

Separate from the subcommands so that each is loaded only when it is asked for: `metainf --help` imports none of them.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from metainf import __version__
from metainf.errors import InvalidWorkloadError, MetaInfError

__all__ = ["BAD_INPUT", "CHOSEN", "FAULT", "REFUSED", "main"]

CHOSEN = 0
FAULT = 1
BAD_INPUT = 2
REFUSED = 3
_INTERRUPTED = 130

_COMMANDS = {
    "bench": "measure methods on real vLLM servers, and calibrate a machine",
    "corpus": "build the meta-dataset from simulations, or show what is in one",
    "evaluate": "judge every selector of methods on a corpus",
    "flags": "ask an installed vLLM for its flags, check ours against it, or show what is catalogued",
    "plan": "decide for InferenceWorkload manifests from files, without a cluster",
    "predict": "predict latency and throughput of one replica, or of many from JSON lines",
    "train": "train the predictor on a corpus and write its file",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 chosen or done, 1 a fault, 2 bad input, 3 refused.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in arguments if not word.startswith("-")), None)
    try:
        parser, module = _parser(command)
        parsed = parser.parse_args(arguments)
        return int(module.run(parsed)) if module is not None else BAD_INPUT
    except InvalidWorkloadError as error:
        return _failed(error, BAD_INPUT)
    except BrokenPipeError:
        # The reader has gone, as `head` does: nothing is left to say, and the interpreter must not try on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CHOSEN
    except (MetaInfError, OSError) as error:
        return _failed(error, FAULT)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _parser(command: str | None) -> tuple[argparse.ArgumentParser, ModuleType | None]:
    """The parser and the module of the command; other commands are known by name and help alone."""
    parser = argparse.ArgumentParser(
        prog="metainf",
        description="Chooses how to serve open-weight language models: the pool, the vLLM method and the layout, "
        "inside a budget.",
    )
    parser.add_argument("--version", action="version", version=f"metainf {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    module: ModuleType | None = None
    for name, summary in _COMMANDS.items():
        if name == command:
            module = importlib.import_module(f"metainf.cli.{name}")
            module.add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary)
    return parser, module


def _failed(error: Exception, code: int) -> int:
    print(f"metainf: {_sentence(error)}", file=sys.stderr)
    return code


def _sentence(error: Exception) -> str:
    """What went wrong, without the number that an operating system has for it."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
