"""Runs `vllm bench serve` again and again in one process of the engine's interpreter.

    python load.py < REQUESTS > ANSWERS

Separate from `metainf` proper, which has no vLLM. Each line in is a list of the arguments of one `vllm bench serve`,
each line out says {"result": ...} or {"error": ...}; what the benchmark prints goes to standard error. Why one process:
importing vLLM takes ten seconds, as long as a run.
"""

import asyncio
import json
import os
import sys
from importlib import import_module
from typing import Any


def main() -> None:
    """Answer every line."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve = import_module("vllm.benchmarks.serve")
    parser = import_module("vllm.utils.argparse_utils").FlexibleArgumentParser()
    serve.add_cli_args(parser)
    _say(answers, {"ready": True})
    for line in sys.stdin:
        try:
            result = asyncio.run(serve.main_async(parser.parse_args(json.loads(line))))
        except (Exception, SystemExit) as error:
            _say(answers, {"error": f"{type(error).__name__}: {error}"})
        else:
            _say(answers, {"result": result})


def _say(answers: Any, what: dict[str, Any]) -> None:
    answers.write(json.dumps(what, default=str) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
