"""The meta-dataset: tasks, what was measured on them, and the tables that selectors learn from.

Separate from what reads it. `load_tables` is found when it is asked for: tasks and replicas are values that features
depend on, and must not bring pyarrow and the simulator with them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metainf.corpus.tables import load_tables

__all__ = ["load_tables"]


def __getattr__(name: str) -> Any:
    if name == "load_tables":
        from metainf.corpus.tables import load_tables

        return load_tables
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
