"""What becomes of a story that cannot be told on this machine: it is skipped, or fails where all have to be told.

Separate from the fixtures, since it knows nothing of clusters. Real nodes and real vLLM need root, Debian, x86_64 and
Python 3.11; whoever lacks one of these is told so and goes on. Where all of them are known to be there, as in CI, a
story that goes missing would look like one that passed: METAINF_E2E_ALL=1 makes it a failure with the same reason.
"""

import os
from collections.abc import Mapping

import pytest

__all__ = ["ALL_VARIABLE", "counted"]

ALL_VARIABLE = "METAINF_E2E_ALL"


def counted(report: pytest.TestReport, environment: Mapping[str, str] = os.environ) -> pytest.TestReport:
    """The report of a test as it counts here; one that is expected to fail is no skipped one."""
    if report.skipped and not hasattr(report, "wasxfail") and environment.get(ALL_VARIABLE):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        report.outcome = "failed"
        report.longrepr = f"{ALL_VARIABLE} is set, so nothing may be skipped: {reason.removeprefix('Skipped: ')}"
    return report
