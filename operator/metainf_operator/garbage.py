"""How often Python looks for cycles of garbage, set for a process that holds caches and decides in milliseconds.

Separate because the bench must decide as the operator does. By default the oldest generation is gone through every few
decisions: 15 to 25 ms each, since what is looked through are caches and modules, which never go away.
"""

import gc

__all__ = ["collect_rarely"]

_THRESHOLDS = (20_000, 20, 50)
"""Allocations less releases before the youngest generation is looked at, and how many of its looks come before one at
the next, and of those before the oldest.
"""


def collect_rarely() -> None:
    """Leave out of every later look what is there now, and look less often; to be called when start-up is over."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
