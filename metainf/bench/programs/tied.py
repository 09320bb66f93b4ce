"""Runs a command that ends with the process that started it, even where that is killed.

    python tied.py PARENT COMMAND...

Separate because it must come between fork and exec: the kernel is asked to send SIGTERM when the parent dies, and a
server that nobody asks any more would hold its memory for ever.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # Source: Linux include/uapi/linux/prctl.h


def main(parent: int, command: list[str]) -> None:
    """Become the command."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == parent:  # it may have died before the kernel was asked
        os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
