"""Runs a command that ends with the process that started it, even where that is killed.

    python tied.py PARENT COMMAND...

Separate because it must stay between the two: the kernel is asked to send SIGTERM when the parent dies, and a server
that nobody asks any more would hold its memory for ever. It does not become the command, since a server that is still
starting lets SIGTERM pass: what has not ended after a while is killed, children and all.
"""

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress

_PR_SET_PDEATHSIG = 1  # Source: Linux include/uapi/linux/prctl.h
_GRACE_S = 15.0


def main(parent: int, command: list[str]) -> int:
    """The command's exit code, as a shell has it."""
    asked = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel was asked
        return 0
    with subprocess.Popen(command) as child:
        while not asked:
            try:
                code = child.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
            return code if code >= 0 else 128 - code
        os.killpg(0, signal.SIGCONT)  # one that is stopped would hear of nothing
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=_GRACE_S)
        os.killpg(0, signal.SIGKILL)  # what is left of the session, and this process, which has no more to do
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
