"""The operator's figures in the small: 100 workloads, 60 s of rest. `make bench` has the full ones."""

from __future__ import annotations

import asyncio

import pytest

from e2e.bench.__main__ import figure_lines
from e2e.bench.fleet import run_fleet
from e2e.cluster import apply_crds, running_cluster
from e2e.kube import ROOT

pytestmark = pytest.mark.e2e

WORKLOADS = 100
STEADY_S = 60.0


def test_a_hundred_workloads_converge_and_then_nothing_is_written_but_the_lease(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with running_cluster() as cluster:
        apply_crds(cluster, ROOT / "crds")
        figures = asyncio.run(run_fleet(cluster, WORKLOADS, STEADY_S, lambda text: print(text, flush=True)))
    with capsys.disabled():
        print("", *figure_lines(figures), sep="\n")
    assert set(figures.steady_writes) == {"update leases.coordination.k8s.io"}, figures.steady_writes
    assert figures.peak_mib < 256
