"""Waiting for what a controller does some time later, and for what it must not do.

Separate because a story without this is flaky or slow: a check is an ordinary function full of asserts, asked again
until it passes, and the last thing that it said is the message when it never does.
"""

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["always", "eventually"]

T = TypeVar("T")

_EVERY_S = 0.2


def eventually(check: Callable[[], T], within_s: float = 30.0, every_s: float = _EVERY_S) -> T:
    """Ask until the check asserts nothing wrong, and give what it returns; its last complaint where it never does."""
    started_s = time.monotonic()
    while True:
        try:
            return check()
        except AssertionError as error:
            if time.monotonic() - started_s >= within_s:
                raise AssertionError(f"not so after {within_s:g} s: {error}") from error
        time.sleep(every_s)


def always(check: Callable[[], object], for_s: float, every_s: float = _EVERY_S) -> None:
    """Ask for so long that the check stays true; its complaint with the moment, where it does not."""
    started_s = time.monotonic()
    while (passed_s := time.monotonic() - started_s) < for_s:
        try:
            check()
        except AssertionError as error:
            raise AssertionError(f"no more so after {passed_s:.1f} s: {error}") from error
        time.sleep(every_s)
