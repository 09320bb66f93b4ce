"""What vLLM is told of a share of a machine, where its own default would take the whole."""

import pytest

from metainf.engine_defaults import cpu_threads


@pytest.mark.parametrize(
    ("cores", "threads_per_core", "threads"),
    [
        pytest.param(28.0, 2, 13, id="hyperthreads: one for each physical core but the server's"),
        pytest.param(27.0, 2, 12, id="half a core computes nothing"),
        pytest.param(16.0, 1, 15, id="cores without hyperthreads"),
        pytest.param(2.0, 1, 1, id="the least that leaves the server a core"),
        pytest.param(1.0, 1, 1, id="one core serves and computes"),
        pytest.param(1.0, 2, 1, id="half a core"),
    ],
)
def test_kernels_get_the_physical_cores_of_the_share_but_one(cores: float, threads_per_core: int, threads: int) -> None:
    assert cpu_threads(cores, threads_per_core) == threads
