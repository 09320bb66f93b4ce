"""`operator/` is a folder and never a package: a package of that name hides the standard library's module."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    "path", ["operator/__init__.py", "operator/operator.py", "tests/operator", "tests/__init__.py", "tests/metainf"]
)
def test_nothing_stands_where_it_would_hide_a_module(path: str) -> None:
    assert not (ROOT / path).exists()


@pytest.mark.parametrize("folder", [ROOT, ROOT / "operator", ROOT / "tests"], ids=lambda folder: folder.name)
def test_the_standard_library_can_be_imported_from_every_folder(folder: Path) -> None:
    code = "import enum, operator; print(operator.__file__)"
    found = subprocess.run([sys.executable, "-S", "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert not found.stdout.startswith(str(ROOT))


def test_pytest_collects_nothing_under_operator() -> None:
    assert [p for p in (ROOT / "operator").rglob("*.py") if p.name.startswith("test_") or p.name == "conftest.py"] == []


def test_the_library_knows_neither_the_operator_nor_a_client_of_kubernetes() -> None:
    code = "import sys, metainf.planning; print([m for m in sys.modules if m.split('.')[0] in "
    code += "('kopf', 'kubernetes', 'metainf_operator', 'aiohttp')])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
