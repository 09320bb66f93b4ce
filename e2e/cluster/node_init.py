"""The first process of a real node's namespaces: it buries the dead, and when it ends the kernel ends all the others.

Separate and of the standard library alone, because it is run as a file by the bare interpreter: everything that it
does not import is memory that a node does not take.
"""

import os
import signal

__all__: list[str] = []


def _bury() -> None:
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


def _main() -> None:
    awaited = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    while signal.sigwait(awaited) is signal.SIGCHLD:
        _bury()


if __name__ == "__main__":
    _main()
