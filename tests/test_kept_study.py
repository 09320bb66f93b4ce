"""The study that is kept: its page and tables are what its ledger says."""

from pathlib import Path

import pytest

from metainf.bench.ledger import read_ledger
from metainf.bench.report import write_report

KEPT = Path(__file__).parents[1] / "data" / "cpu_study"
AGAIN = "metainf bench --report-only --out data/cpu_study --report data/cpu_study"


@pytest.fixture(scope="module")
def redrawn(tmp_path_factory):
    """The report drawn again, beside the pages that others write."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "predictors.md").write_bytes((KEPT / "predictors.md").read_bytes())
    write_report(read_ledger(KEPT), folder)
    return folder


def test_the_study_is_whole():
    ledger = read_ledger(KEPT)
    assert len(ledger.done) == len(ledger.plan.runs) == 992
    assert not ledger.failed()


@pytest.mark.parametrize("name", ["README.md", "runs.csv", "servers.csv", "measurements.csv"])
def test_what_is_kept_is_what_its_ledger_says(redrawn, name):
    assert (redrawn / name).read_bytes() == (KEPT / name).read_bytes(), f"draw it again: {AGAIN}"
