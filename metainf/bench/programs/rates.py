"""Measures how fast this device reads memory and multiplies matrices, with torch; prints the samples as JSON.

    python rates.py THREADS

Separate from `metainf` proper, which has no torch: here are only samples, what they come to is said there. Every sample
is the least of several rounds, since whatever else a machine does only adds to it.
"""

import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

_ROUND_S = 0.02
_ROUNDS = 5
_MIB = 1 << 20
_READ_MIB = (4, 64, 512)
_ROWS = (1, 4, 16, 64, 256, 1024, 4096)
_SHAPES = ((512, 512), (512, 2816), (2048, 2048), (4096, 4096))
_DTYPES = ("float32", "bfloat16", "float16")
_TINY = 64
_LAYER_OPERATIONS = 14
"""Kernels of a decoder layer without its products: two norms, rotation, cache write, attention, activation, sums."""


def main(threads: int) -> None:
    """Print the samples."""
    torch: Any = import_module("torch")
    on_gpu = torch.cuda.is_available()
    if threads:
        torch.set_num_threads(threads)
    device = "cuda" if on_gpu else "cpu"
    wait: Callable[[], object] = torch.cuda.synchronize if on_gpu else lambda: None
    with torch.inference_mode():
        found = {
            "threads": torch.get_num_threads(),
            "reads": [_read(torch, device, wait, size) for size in _READ_MIB],
            "products": _products(torch, device, wait),
            "layer_s": _layer_s(torch, device, wait),
        }
    print(json.dumps(found))


def _least_s(work: Callable[[], object], wait: Callable[[], object]) -> float:
    """Seconds of one piece of work."""
    work()
    wait()
    begun_s = time.perf_counter()
    work()
    wait()
    count = max(1, int(_ROUND_S / max(1e-7, time.perf_counter() - begun_s)))
    rounds = []
    for _ in range(_ROUNDS):
        begun_s = time.perf_counter()
        for _ in range(count):
            work()
        wait()
        rounds.append((time.perf_counter() - begun_s) / count)
    return min(rounds)


def _read(torch: Any, device: str, wait: Callable[[], object], mib: int) -> dict[str, float]:
    """A vector through a matrix of so many MiB: each weight is read once."""
    columns = 4096
    matrix = torch.ones(mib * _MIB // 4 // columns, columns, device=device)
    vector = torch.ones(columns, device=device)
    return {"bytes": float(mib * _MIB), "seconds": _least_s(lambda: torch.mv(matrix, vector), wait)}


def _products(torch: Any, device: str, wait: Callable[[], object]) -> list[dict[str, Any]]:
    found = []
    for name in _DTYPES:
        dtype = getattr(torch, name)
        for inner, columns in _SHAPES:
            weights = torch.ones(columns, inner, device=device, dtype=dtype)
            for rows in _ROWS:
                if rows * inner * columns > 1 << 34 and device == "cpu":
                    continue
                values = torch.ones(rows, inner, device=device, dtype=dtype)
                seconds = _least_s(lambda v=values, w=weights: torch.nn.functional.linear(v, w), wait)  # type: ignore[misc]
                found.append({"dtype": name, "rows": rows, "inner": inner, "columns": columns, "seconds": seconds})
    return found


def _layer_s(torch: Any, device: str, wait: Callable[[], object]) -> float:
    """Seconds of a layer's small kernels when there is nothing to compute: what starting them costs."""
    values = torch.ones(1, _TINY, device=device)
    weight = torch.ones(_TINY, device=device)

    def layer() -> None:
        for _ in range(_LAYER_OPERATIONS // 2):
            torch.nn.functional.silu(values)
            torch.mul(values, weight)

    return _least_s(layer, wait)


if __name__ == "__main__":
    main(int(sys.argv[1]))
