"""Stories that cannot be told on a machine: skipped there, and failures where METAINF_E2E_ALL says that all can be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.skips import ALL_VARIABLE

ROOT = Path(__file__).resolve().parent.parent
STORIES = """
import pytest


@pytest.mark.skipif(True, reason="a real node needs root")
def test_by_a_mark(): ...


def test_on_the_way():
    pytest.skip("vLLM for CPUs is pinned for x86_64")


@pytest.mark.xfail(reason="not yet")
def test_expected_to_fail():
    assert False


def test_told(): ...
"""


@pytest.mark.parametrize(
    ("value", "code", "counts"),
    [
        pytest.param(None, 0, ["1 passed", "2 skipped", "1 xfailed"], id="not set -> skipped"),
        pytest.param("", 0, ["1 passed", "2 skipped", "1 xfailed"], id="empty -> skipped"),
        pytest.param("1", 1, ["1 passed", "1 error", "1 failed", "1 xfailed"], id="set -> failures"),
    ],
)
def test_what_cannot_be_told_fails_only_where_all_must_be(tmp_path, value, code, counts):
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_stories.py").write_text(STORIES)
    environment = {name: each for name, each in os.environ.items() if name not in (ALL_VARIABLE, "PYTEST_ADDOPTS")}
    environment |= {} if value is None else {ALL_VARIABLE: value}
    command = [sys.executable, "-m", "pytest", "-p", "e2e.conftest", "-p", "no:cacheprovider", "-rs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == code, done.stdout + done.stderr
    summary = done.stdout.splitlines()[-1]
    assert all(count in summary for count in counts), summary
    assert ("skipped" in summary) == (code == 0)
    for reason in ("a real node needs root", "vLLM for CPUs is pinned for x86_64"):
        assert reason in done.stdout
