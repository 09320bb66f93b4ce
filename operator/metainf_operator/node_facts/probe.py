"""Has a child process look at the driver, and ends it where it does not come back.

Separate from `nvml`, which is what the child runs: here a library that hangs, or takes its process down, becomes a
`Fault` like any other.
"""

import contextlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metainf_operator.node_facts.gpus import Fault, Outcome, from_text

__all__ = ["Probe"]

_DEATH_S = 1.0
"""A killed process is gone in milliseconds, but for the kernel's own calls."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Looks when called."""

    driver_root: Path | None = None
    """Where the driver's files lie; None leaves it to the loader."""
    sys_root: Path = Path("/sys")
    timeout_s: float = 30.0
    """NVML wakes GPUs that sleep, eight of them for seconds; a GPU that fell off its bus answers never."""

    @property
    def command(self) -> Sequence[str]:
        """What the child runs."""
        root = [] if self.driver_root is None else [f"--driver-root={self.driver_root}"]
        return [sys.executable, "-m", "metainf_operator.node_facts.nvml", f"--sys-root={self.sys_root}", *root]

    def __call__(self) -> Outcome:
        """What the driver says now, or that it does not."""
        child = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        try:
            output, complaint = child.communicate(timeout=self.timeout_s)
        except subprocess.TimeoutExpired:
            _abandon(child)
            return Fault(f"the driver did not answer within {self.timeout_s:g} s")
        except BaseException:  # told to stop meanwhile: a call that hangs in the kernel must not hold the end up
            _abandon(child)
            raise
        if child.returncode != 0:
            last = complaint.strip().rpartition("\n")[2][:200]
            return Fault(f"asking the driver ended with {_called(child.returncode)}{': ' if last else ''}{last}")
        try:
            return from_text(output)
        except ValueError as error:
            return Fault(str(error))


def _abandon(child: subprocess.Popen[str]) -> None:
    """Kill it and hardly wait: one that hangs inside of the kernel cannot die before its call returns."""
    child.kill()
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_DEATH_S)


def _called(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
