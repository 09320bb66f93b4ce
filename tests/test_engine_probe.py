"""What the probe reads off a parser, and how its answers come back from an interpreter of another environment."""

import argparse
import enum
import json
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from metainf.engine_environment import EngineAnswerError, EngineEnvironment
from metainf.engine_probe import checked, converter_of, described, options_of, plain
from metainf.errors import InvalidWorkloadError
from metainf.flag_catalogue import FlagKind, FlagSpec

# A package of vLLM's name and shape, as small as can be: what it says is known, and it is there in milliseconds. The
# real ones answer in e2e/test_engine_flags.py.
PACKAGE = {
    "__init__.py": "__version__ = '0.99.1'\n",
    "platforms/__init__.py": "class current_platform:\n    device_name = 'cpu'\n",
    "utils/__init__.py": "",
    "utils/argparse_utils.py": "from argparse import ArgumentParser as FlexibleArgumentParser\n",
    "usage/__init__.py": "",
    "usage/usage_lib.py": "class UsageContext:\n    OPENAI_API_SERVER = 'server'\n",
    "model_executor/__init__.py": "",
    "model_executor/models/__init__.py": "",
    "model_executor/models/registry.py": "",
    "entrypoints/__init__.py": "",
    "entrypoints/openai/__init__.py": "",
    "entrypoints/openai/cli_args.py": """
        import argparse, json, sys

        def human_readable_int(value):
            return int(value)

        def make_arg_parser(parser):
            print("a log line on the standard output")
            parser.add_argument("model_tag", nargs="?")
            group = parser.add_argument_group("CacheConfig")
            group.add_argument("--enable-prefix-caching", "-epc", action=argparse.BooleanOptionalAction)
            group.add_argument("--cache-bytes", type=human_readable_int)
            parser.add_argument("--max-num-seqs", type=int, default=8)
            parser.add_argument("--kv-transfer-config", type=json.loads)
            return parser
        """,
    "engine/__init__.py": "",
    "engine/arg_utils.py": """
        from types import SimpleNamespace as Some
        import torchvision.transforms.v2 as pictures

        class AsyncEngineArgs:
            def __init__(self, args):
                self.args = args

            @classmethod
            def from_cli_args(cls, args):
                return cls(args)

            def create_engine_config(self, usage_context):
                assert usage_context == "server"
                if self.args.max_num_seqs < 1:
                    raise ValueError("max_num_seqs must be\\n    greater than 0")
                return Some(
                    cache_config=Some(enable_prefix_caching=self.args.enable_prefix_caching, cache_dtype="auto",
                                      gpu_memory_utilization=0.9, block_size=16),
                    scheduler_config=Some(enable_chunked_prefill=True, max_num_batched_tokens=2048,
                                          max_num_seqs=self.args.max_num_seqs, long_prefill_token_threshold=0,
                                          async_scheduling=False, stream_interval=1),
                    model_config=Some(max_model_len=4096, quantization=None, dtype="bfloat16"),
                    speculative_config=None,
                )
        """,
}


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Config:
    size: int = 1


Config.__module__ = "vllm.config.cache"


def parse_type(return_type):
    def convert(value):
        return return_type(value)

    return convert


def parse_dataclass(value, cls=Config):
    return cls(**json.loads(value))


def option(*names, **kwargs):
    """What the probe says of one option."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument_group("Group").add_argument(*names, **kwargs)
    ((action, group, deprecated),) = options_of(parser)
    return described(action, group, deprecated)


@pytest.mark.parametrize(
    ("converter", "expected"),
    [
        pytest.param(None, ("str", ""), id="none"),
        pytest.param(int, ("int", ""), id="a type"),
        pytest.param(json.loads, ("json", ""), id="JSON"),
        pytest.param(parse_type(json.loads), ("json", ""), id="JSON, wrapped"),
        pytest.param(parse_type(parse_type(float)), ("float", ""), id="a type, wrapped twice"),
        pytest.param(parse_dataclass, ("json", "Config"), id="a configuration class"),
    ],
)
def test_looks_through_the_functions_that_types_are_wrapped_in(converter, expected):
    assert converter_of(converter) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(argparse.SUPPRESS, None, id="no default at all"),
        pytest.param(Colour.RED, "red", id="a member"),
        pytest.param((1, 2), [1, 2], id="a tuple"),
        pytest.param(Config(), None, id="an object that is made at start"),
        pytest.param([Config()], None, id="objects in a list"),
        pytest.param(0.92, 0.92, id="a number"),
    ],
)
def test_keeps_of_a_default_what_json_can_hold(value, expected):
    assert plain(value) == expected


def test_says_what_argparse_knows_of_an_option():
    found = option("--moe-backend", "-mb", type=lambda s: s.lower().replace("-", "_"), choices=["deep_gemm"])
    assert found == {
        "options": ["--moe-backend", "-mb"],
        "action": "StoreAction",
        "nargs": None,
        "type": "<lambda>",
        "config": "",
        "choices": ["deep_gemm"],
        "folds": True,
        "default": None,
        "group": "Group",
        "deprecated": False,
    }
    assert option("--rank", type=int, choices={8, 1})["choices"] == ["1", "8"]
    assert not option("--rank", type=int, choices=[1])["folds"]


def test_arguments_are_taken_by_exact_name_alone():
    parser = argparse.ArgumentParser()
    parser.add_argument("--max-num-seqs", type=int)
    assert checked(parser, ["--max-num-s", "3"], str)["stage"] == "name"
    refused = checked(parser, ["--max-num-seqs", "x"], str)
    assert refused == {"stage": "parser", "error": "argument --max-num-seqs: invalid int value: 'x'"}


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    """A folder with a package named vllm, the facts that pip leaves beside one, and a torch that knows of AMX tiles."""
    for name, text in PACKAGE.items():
        path = tmp_path / "overlay" / "vllm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    torch = "class cpu:\n    _is_amx_tile_supported = staticmethod(lambda: True)\n"
    (tmp_path / "overlay" / "torch.py").write_text(torch, encoding="utf-8")
    facts = tmp_path / "overlay" / "vllm_small-0.99.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-small\nVersion: 0.99.1\n", encoding="utf-8")
    return tmp_path / "overlay"


def test_asks_a_package_that_is_laid_over_an_interpreter(overlay: Path):
    answer = EngineEnvironment(Path(sys.executable), overlay).ask()
    origin = answer.catalogue.origin
    assert (origin.engine, origin.distribution, origin.platform) == ("0.99.1", "vllm-small 0.99.1", "cpu")
    assert origin.parser == "vllm.entrypoints.openai.cli_args.make_arg_parser"
    assert origin.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert answer.amx_tile
    assert answer.cases == ()
    assert answer.catalogue.flags == {
        "help": FlagSpec("help", FlagKind.FLAG, ("-h",), group="options"),
        "enable-prefix-caching": FlagSpec(
            "enable-prefix-caching", FlagKind.SWITCH, ("-epc",), ("--no-enable-prefix-caching",), group="CacheConfig"
        ),
        "cache-bytes": FlagSpec("cache-bytes", FlagKind.SIZE, group="CacheConfig"),
        "max-num-seqs": FlagSpec("max-num-seqs", FlagKind.INT, default=8, group="options"),
        "kv-transfer-config": FlagSpec("kv-transfer-config", FlagKind.JSON, group="options"),
    }


def test_hears_what_parser_and_configuration_say_to_each_case(overlay: Path):
    cases = [
        ["/m", "--enable-prefix-caching", "--max-num-seqs", "4"],
        ["/m", "--max-num-seqs", "0"],
        ["/m", "--max-num-seqs=many"],
        ["/m", "--max-num", "4"],
    ]
    taken, config, parser, name = EngineEnvironment(Path(sys.executable), overlay).ask(cases).cases
    assert taken.resolved is not None
    assert (taken.resolved["prefix_caching"], taken.resolved["max_num_seqs"]) == (True, 4)
    assert (config.stage, config.error) == ("config", "ValueError: max_num_seqs must be greater than 0")
    assert config.where == "vllm/engine/arg_utils.py"
    assert (parser.stage, parser.error) == ("parser", "argument --max-num-seqs: invalid int value: 'many'")
    assert (name.stage, name.error) == ("name", "no flag of the parser: --max-num")


def program(folder: Path, text: str) -> Path:
    """An interpreter that is none."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def runs(process: int) -> bool:
    """Whether a process is there and no mere entry that nobody has asked for."""
    try:
        return not Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(") ")[2].startswith("Z")
    except OSError:
        return False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("echo trouble >&2; exit 3", "ended with code 3: trouble", id="fails"),
        pytest.param("exit 4", "ended with code 4: it said nothing", id="fails without a word"),
        pytest.param("sleep 60", "took too long", id="hangs"),
        pytest.param("echo x >> progress; kill -9 $$", "ended with code -9 at case 2", id="dies at a case"),
        pytest.param("echo hello", "not JSON", id="says something else"),
        pytest.param("echo []", "not an object", id="says a list"),
        pytest.param("echo '{}'", "KeyError", id="says nothing"),
        pytest.param(
            """echo '{"origin": {"engine": "1"}, "amx_tile": true, "flags": [], "cases": []}'""",
            "TypeError",
            id="says half of it",
        ),
    ],
)
def test_an_interpreter_that_does_not_answer_is_told_of(tmp_path: Path, text: str, message: str):
    environment = EngineEnvironment(program(tmp_path, text))
    with pytest.raises(EngineAnswerError, match=message):
        environment.ask(timeout_s=1.0 if "sleep" in text else 60.0)


def test_what_an_interpreter_started_ends_with_it(tmp_path: Path):
    started = tmp_path / "started"
    environment = EngineEnvironment(program(tmp_path, f"sleep 60 & echo $! > {started}; wait"))
    with pytest.raises(EngineAnswerError, match="took too long"):
        environment.ask(timeout_s=5.0)
    process = int(started.read_text())
    for _ in range(100):
        if not runs(process):
            return
        time.sleep(0.1)
    pytest.fail("it still runs")


def test_answers_for_another_number_of_cases_are_not_taken(overlay: Path, tmp_path: Path):
    answer = json.dumps({"origin": dict.fromkeys(("engine", "distribution", "parser", "platform", "python"), "x")})
    text = f"""echo '{answer[:-1]}, "amx_tile": false, "flags": [], "cases": []}}'"""
    with pytest.raises(EngineAnswerError, match="0 to 1 cases"):
        EngineEnvironment(program(tmp_path, text)).ask([["/m"]])


def test_an_interpreter_without_vllm_is_told_of():
    with pytest.raises(EngineAnswerError, match="No module named 'vllm'"):
        EngineEnvironment(Path(sys.executable)).ask()


def test_what_is_not_there_is_not_run(tmp_path: Path):
    with pytest.raises(InvalidWorkloadError, match="not an interpreter"):
        EngineEnvironment(tmp_path / "python").ask()
    with pytest.raises(InvalidWorkloadError, match="not a folder"):
        EngineEnvironment(Path(sys.executable), tmp_path / "overlay").ask()
