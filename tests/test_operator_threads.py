"""The operator multiplies matrices on one thread, whatever the machine has."""

import os
import subprocess
import sys

import pytest

_ASK = """
import metainf_operator.__main__
from threadpoolctl import threadpool_info
print([each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"])
"""


@pytest.mark.skipif((os.cpu_count() or 1) == 1, reason="one core, on which there is never a second thread")
@pytest.mark.parametrize(("given", "threads"), [({}, 1), ({"OPENBLAS_NUM_THREADS": "2"}, 2)], ids=["default", "asked"])
def test_the_operator_multiplies_on_one_thread_unless_told_otherwise(given: dict[str, str], threads: int) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    found = subprocess.run(
        [sys.executable, "-c", _ASK], env={**kept, **given}, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split("\n")[0] == str([threads])
