"""`kubectl metainf unpin`, by its name.

Separate because each subcommand is found by the module of its name; it stands with `pin`, whose patch it undoes.
"""

from metainf_operator.plugin.pin import run_unpin as run

__all__ = ["run"]
