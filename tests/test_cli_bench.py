import json
from pathlib import Path

import pytest

from metainf.bench.ledger import read_ledger
from metainf.bench.processes import code_version
from metainf.bench.records import Outcome
from metainf.bench.running import Progress
from metainf.cli import main
from metainf.cli.bench import _reporting
from stand_in_server import StandInServer
from test_bench_running import RESULT

ENGINE = {"vllm": "0.32.0", "torch": "2.13.0", "gpu": None}


@pytest.fixture
def engine(monkeypatch):
    """An interpreter that says it has vLLM, and a load generator that answers with a recorded result."""
    asked = []

    def answer_of(python: str, program: str, arguments: list[str], *, most_s: float) -> str:
        asked.append((program, *arguments))
        if program == "make_model.py":
            Path(arguments[1], "config.json").write_text("{}")
        return json.dumps(ENGINE)

    class Loads:
        def __init__(self, python: str, log: Path) -> None:
            """Nothing to start."""

        def begin(self) -> None:
            """Nothing to wait for."""

        def run(self, arguments: list[str], *, most_s: float) -> object:
            return {**RESULT, "completed": int(arguments[arguments.index("--num-prompts") + 1])}

        def end(self) -> None:
            """Nothing to end."""

    monkeypatch.setattr("metainf.bench.processes.answer_of", answer_of)
    monkeypatch.setattr("metainf.bench.loading.LoadGenerator", Loads)
    return asked


@pytest.fixture
def url():
    server = StandInServer()
    yield server.url
    server.close()


def given(url: str, out: Path, *more: str) -> list[str]:
    servers = ["--url", f"default={url}", f"no-prefix-caching={url}", "--served-model", "m", "--models", "/m"]
    return ["bench", *servers, "--python", "python", "--loads", "c1", "b4", "--repeats", "2", "--out", str(out), *more]


def test_measures_servers_that_run_already_and_reports(engine, url, tmp_path, capsys):
    code = main(given(url, tmp_path / "out", "--report", str(tmp_path / "report")))

    said = capsys.readouterr().out
    assert code == 0
    assert "8 of 8 runs (completed 8); all runs are there" in said
    assert (tmp_path / "report" / "README.md").exists()
    assert (tmp_path / "out" / "measurements.parquet").exists()
    assert {r.outcome for r in read_ledger(tmp_path / "out").latest()} == {Outcome.COMPLETED}
    assert read_ledger(tmp_path / "out").measured_by == (code_version(),)


def test_the_same_command_again_does_nothing_twice(engine, url, tmp_path, capsys):
    main(given(url, tmp_path / "out"))
    ledger = (tmp_path / "out" / "ledger.jsonl").read_text()

    assert main(given(url, tmp_path / "out")) == 0
    assert (tmp_path / "out" / "ledger.jsonl").read_text() == ledger


def test_another_plan_in_the_same_folder_is_refused(engine, url, tmp_path, capsys):
    main(given(url, tmp_path / "out"))

    assert main(given(url, tmp_path / "out", "--seed", "3")) == 2
    assert "another plan" in capsys.readouterr().err


def test_ctrl_c_says_what_is_kept(engine, url, tmp_path, capsys, monkeypatch):
    def interrupted(ledger, servers, loads, limits, *, report):
        raise KeyboardInterrupt

    monkeypatch.setattr("metainf.bench.running.run_plan", interrupted)

    assert main(given(url, tmp_path / "out")) == 130
    assert "0 of 8 runs are kept; the same command goes on" in capsys.readouterr().err


def test_reports_without_measuring(engine, url, tmp_path, capsys):
    main(given(url, tmp_path / "out"))
    engine.clear()

    assert main(["bench", "--report-only", "--out", str(tmp_path / "out")]) == 2
    assert "give --report FOLDER" in capsys.readouterr().err
    assert main(["bench", "--report-only", "--out", str(tmp_path / "out"), "--report", str(tmp_path / "r")]) == 0
    assert engine == []
    assert (tmp_path / "r" / "README.md").exists()


def test_a_commit_is_taken_only_where_the_folder_does_not_say_it(engine, url, tmp_path, capsys):
    main(given(url, tmp_path / "out"))
    report = ["bench", "--report-only", "--commit", "abc", "--out", str(tmp_path / "out"), "--report"]

    assert main([*report, str(tmp_path / "r")]) == 2
    assert "was measured by" in capsys.readouterr().err
    manifest = tmp_path / "out" / "bench.json"
    manifest.write_text(json.dumps({k: v for k, v in json.loads(manifest.read_text()).items() if k != "measured_by"}))
    assert main([*report, str(tmp_path / "r")]) == 0
    assert "Measured by metainf, commit abc." in (tmp_path / "r" / "README.md").read_text()
    assert read_ledger(tmp_path / "r").measured_by == ("commit abc",)


def test_makes_a_small_model_once(engine, tmp_path, monkeypatch):
    monkeypatch.setattr("metainf.bench.running.run_plan", lambda *args, **kwargs: Progress(0, 8, 0, 0.0, ""))
    command = ["bench", "--plan", "short", "--python", "p", "--out", str(tmp_path)]

    assert main(command) == 0 and main(command) == 0
    assert [program for program, *_ in engine].count("make_model.py") == 1
    assert (tmp_path / "models" / "dense-7m" / "config.json").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param([], "give --python", id="no interpreter"),
        pytest.param(["--python", "p"], "nothing to measure", id="no model"),
        pytest.param(["--python", "p", "--models", "m", "--repeats", "0"], "must be above 0", id="no repeat"),
        pytest.param(["--python", "p", "--models", "m", "--loads", "x1"], "no load 'x1'", id="no load"),
        pytest.param(["--python", "p", "--models", "m", "--traffics", "odd"], "no traffic 'odd'", id="no traffic"),
        pytest.param(["--python", "p", "--models", "m", "--methods", "ngrm"], "did you mean ngram", id="no method"),
        pytest.param(["--python", "p", "--url", "here"], "METHOD=URL", id="no URL"),
        pytest.param(["--python", "p", "--url", "default=http://x"], "tokeniser", id="no tokeniser"),
        pytest.param(["--report-only", "--report", "r"], "holds no bench", id="nothing to report"),
        pytest.param(["--python", "p", "--commit", "abc"], "goes with --report-only", id="a commit of a new bench"),
        pytest.param(["--calibrate"], "give --python", id="nothing to calibrate with"),
    ],
)
def test_says_what_is_wrong_with_the_command(engine, tmp_path, capsys, arguments, told):
    assert main(["bench", "--out", str(tmp_path), *arguments]) == 2
    assert told in capsys.readouterr().err


def test_an_interpreter_without_vllm_is_refused(engine, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(ENGINE, "vllm", None)

    assert main(["bench", "--out", str(tmp_path), "--python", "p", "--models", "m"]) == 2
    assert "has no vLLM" in capsys.readouterr().err


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(capsys):
    with _reporting(terminal=False) as report:
        report(Progress(0, 4, 0, 0.0, "m: starting 2 servers"))
        report(Progress(1, 4, 1, 30.0, "m/shared/c4"))
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["metainf: 0/4 runs, time left not known yet: m: starting 2 servers"]


def test_progress_is_a_bar_on_a_terminal(capsys):
    with _reporting(terminal=True) as report:
        report(Progress(1, 4, 1, 3600.0, "m/shared/c4"))
    assert "1/4 3 h 00 min left m/shared/c4" in capsys.readouterr().err
