"""How the simulator's functions are compiled, said once.

Separate so that they all agree: divisions are numpy's, and no function counts references. They only read and write
arrays that `simulate` holds for them and make none of their own; numba's counting, an atomic operation for each array
of a state of dozens at each call, took nine tenths of the time. `_nrt` is what numba's own tests call it. Handing that
state to a function takes longer than what most of them do, so they become part of their callers, but for the few that
stand apart: large ones, called from several places or seldom.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

__all__ = ["compiled", "compiled_apart", "kept_compiled"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_COMMON: dict[str, Any] = {"error_model": "numpy", "_nrt": False}
_INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def compiled(function: _Function) -> _Function:
    """Compile the function as a part of the compiled ones that call it.

    It has no wrapper for Python, which is half of the compiler's work: Python cannot call it, and must not try.
    """
    return cast(_Function, numba.njit(**_COMMON, **_INNER, forceinline=True)(function))


def compiled_apart(function: _Function) -> _Function:
    """Compile the function for other compiled ones to call."""
    return cast(_Function, numba.njit(**_COMMON, **_INNER)(function))


def kept_compiled(function: _Function) -> _Function:
    """Compile the function that Python calls, and keep its machine code on disk."""
    return cast(_Function, numba.njit(**_COMMON, cache=True, nogil=True)(function))
