"""Files that appear whole or not at all, whatever is killed meanwhile.

Separate from those who keep files (`build`, `measured_rows`), which know what is in them.
"""

import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["written_whole"]


def written_whole(path: Path, write: Callable[[Path], object]) -> None:
    """The file appears at once with all that is in it, in the place of an earlier one, or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    write(temporary)
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(path)
