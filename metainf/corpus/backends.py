"""Where the shards of a build are worked on: in joblib's own processes, or on a local cluster of Dask's.

Separate from `build`, which goes through joblib whatever its backend: this starts what joblib then finds. Rows, files
and digests are the same either way. For a cluster of several machines start a Dask client of your own and call `build`
inside of `joblib.parallel_config(backend="dask")`; workers need this code and the same stores of tables.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

import joblib

from metainf.errors import InvalidWorkloadError

__all__ = ["Backend", "workers"]


class Backend(StrEnum):
    """Who starts the processes."""

    LOKY = "loky"
    """joblib, as soon as there is work for more than one."""
    DASK = "dask"
    """A local cluster, which is there before the first task; needs the extra `dask`."""


@contextmanager
def workers(backend: Backend, n_jobs: int) -> Iterator[None]:
    """Within it joblib works by this backend; `n_jobs` as joblib has it.

    Raises
    ------
    InvalidWorkloadError
        Dask is asked for and is not installed.
    """
    if backend is Backend.LOKY:
        yield
        return
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise InvalidWorkloadError("Dask needs the package distributed: install the extra `dask`") from error
    # Without a limit: a worker near one is paused or restarted, and its shard begun anew. Nobody looks at a dashboard.
    options = {"processes": True, "threads_per_worker": 1, "memory_limit": None, "dashboard_address": None}
    with (
        LocalCluster(n_workers=joblib.effective_n_jobs(n_jobs), **options) as cluster,
        Client(cluster) as client,
        joblib.parallel_config(backend="dask", client=client),
    ):
        yield
