"""Files that appear whole or not at all, whatever is killed meanwhile.

Separate from those who keep files (`build`, `measured_rows`, `kept_files` of the evaluation), which know what is in
them.
"""

import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["written_whole"]


def written_whole(path: Path, write: Callable[[Path], object], *, shared: bool = False) -> None:
    """The file appears at once with all that is in it, in the place of an earlier one, or not at all.

    `shared`: several processes may write it at a time. Each then works on a file of its own, and the last one stays.
    """
    own = f".{os.getpid()}" if shared else ""
    temporary = path.with_name(f".{path.name}{own}.part")
    write(temporary)
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(path)
