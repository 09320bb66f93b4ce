from pathlib import Path

import pytest

import metainf.corpus
from metainf.cli import main
from metainf.corpus.task import TrafficKind
from metainf.selectors.contract import MethodTable
from selection_tables import learnable_table


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tables = {TrafficKind.BATCH: learnable_table(500), TrafficKind.RATE: learnable_table(0)}

    def load_tables(folder: Path) -> dict[TrafficKind, MethodTable]:
        assert folder == tmp_path
        return tables

    monkeypatch.setattr(metainf.corpus, "load_tables", load_tables, raising=False)
    return tmp_path


def asked(corpus: Path, *more: str) -> int:
    return main(["evaluate", "--corpus", str(corpus), "--out", str(corpus / "out"), *more])


def test_writes_the_report_and_says_how_the_focus_did(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(corpus, "--selectors", "nearest-neighbour,vllm-default", "--quick") == 0
    out, err = capsys.readouterr()
    assert "batch, leave-model-out: nearest-neighbour on" in out
    assert out.splitlines()[-1].startswith(str(corpus / "out" / "report.md"))
    assert "metainf: batch, random: vllm-default" in err
    text = (corpus / "out" / "report.md").read_text()
    assert "400 tasks" in text
    assert "Traffic: rate" not in text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        pytest.param(["--selectors", "nearest"], "'nearest' is none of random", id="an unknown selector"),
        pytest.param(["--selectors", ","], "an empty list", id="no selector"),
        pytest.param(
            ["--selectors", "random", "--focus", "isac"], "--focus isac: it must be", id="a focus not among them"
        ),
        pytest.param(["--measured", "absent.csv"], "there is no such file", id="measured rows that are not there"),
        pytest.param(["--selectors", "random", "--kind", "rate"], "no tasks of rate", id="a kind that is not there"),
    ],
)
def test_bad_input_is_a_sentence_and_2(
    corpus: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert asked(corpus, *more) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(tmp_path / "absent") == 2
    assert "there is no such folder" in capsys.readouterr().err
