"""An event loop whose clock jumps instead of waiting, so that a test of minutes takes milliseconds."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self._now_s = 1000.0  # not zero: a clock's start is arbitrary, and no code may rely on it
        really_select = self._selector.select

        def select(timeout: float | None = None) -> Any:
            ready = really_select(0)
            if not ready and timeout is None:
                raise RuntimeError("every task waits for something that will never happen")
            if not ready and timeout:
                self._now_s += timeout
            return ready

        self._selector.select = select

    def time(self) -> float:
        return self._now_s


def run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


def now_s() -> float:
    return asyncio.get_running_loop().time()
