"""Prints the operator's figures with the machine that they were taken on."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import time
from pathlib import Path

from e2e.bench.decisions import time_decisions
from e2e.bench.fleet import Figures, run_fleet
from e2e.cluster import apply_crds, running_cluster

_ROOT = Path(__file__).resolve().parents[2]


def _machine() -> str:
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}, {platform.system()}"


def figure_lines(figures: Figures) -> list[str]:
    """The figures, a line each."""
    rows = (
        (f"{figures.workloads} workloads decided after the start", f"{figures.first_s:.1f} s"),
        ("all of a pool's workloads follow its price", f"{figures.price_change_s:.1f} s"),
        ("CPU time of the operator until then", f"{figures.cpu_s:.1f} s"),
        ("memory, idle", f"{figures.idle_mib:.0f} MiB"),
        (f"memory, {figures.workloads} workloads", f"{figures.full_mib:.0f} MiB, peak {figures.peak_mib:.0f} MiB"),
        (f"writes in {figures.steady_s:.0f} s of steady state", f"{figures.steady_writes or 'none'}"),
    )
    return [f"  {name:<46} {value}" for name, value in rows]


def main() -> int:
    """Measure and print; 1 where the steady state was not quiet."""
    parser = argparse.ArgumentParser(prog="python -m e2e.bench", description=__doc__)
    parser.add_argument("--workloads", type=int, default=1000)
    parser.add_argument("--steady-s", type=float, default=300.0)
    parser.add_argument("--decisions", type=int, default=1000)
    options = parser.parse_args()
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"  [{time.monotonic() - started:5.0f} s] {text}", file=sys.stderr, flush=True)

    print(_machine())
    for new_kinds, about in ((False, "another rate"), (True, "a new kind of traffic")):
        times = time_decisions(options.decisions, new_kinds=new_kinds)
        print(
            f"  one decision over {times.candidates} candidates, {times.count} of them, each about {about}: "
            f"p50 {times.p50_ms:.1f} ms, p99 {times.p99_ms:.1f} ms, worst {times.worst_ms:.1f} ms"
        )
    if options.workloads:
        with running_cluster() as cluster:
            apply_crds(cluster, _ROOT / "crds")
            figures = asyncio.run(run_fleet(cluster, options.workloads, options.steady_s, say))
        print("\n".join(figure_lines(figures)))
        return 0 if all("leases" in name for name in figures.steady_writes) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
