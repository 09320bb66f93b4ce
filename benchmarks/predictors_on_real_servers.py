"""How far predictors are off on real servers' rows: the analytical one, and a trained one.

    python benchmarks/predictors_on_real_servers.py FILE... [--predictor FILE]

FILE is rows as `metainf train --measured` takes them: *.parquet of the measurement table, or a published set's file.
Separate from `calibrate_analytical`, which fits constants on such rows: here nothing is fitted, and rows of engines
older than what is simulated are shown too. The analytical predictor's constants have seen them, with what they are off
by where a generation is left out told by that benchmark. A trained one has four numbers of `metainf train --measured`
from the silicon sample and GPUStack, and nothing else of them: what it is off by with a row's generation or model held
out of these is in its manifest.
"""

import argparse
from pathlib import Path

import numpy as np

from metainf.artifact import load_predictor
from metainf.evaluation.measured import read_measured
from metainf.measurements import joined
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.contract import FloatArray, Predictor
from metainf.predictors.default import SHIPPED
from metainf.training.server_steps import FIGURES, server_errors, server_rows
from metainf.training.spreads import DEVIATIONS


def _cell(errors: FloatArray, sd: FloatArray) -> str:
    """Error and bias of the logarithm, which are shares of the truth near 0, and what is in 90 % intervals."""
    known = ~np.isnan(errors)
    if not known.any():
        return "-"
    own = errors[known]
    held = np.abs(own) <= DEVIATIONS * sd[known]
    return f"{np.median(np.abs(own)):>5.2f}  {np.median(own):>+5.2f}  {held.mean():>7.0%}"


def main() -> None:
    """Print a table for each source, by accelerator."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--predictor", type=Path, default=SHIPPED, help="of `metainf train` (default: what ships)")
    arguments = parser.parse_args()
    rows = server_rows(joined(read_measured(path) for path in arguments.rows), any_engine=True)
    predictors: dict[str, Predictor] = {
        "analytical": AnalyticalPredictor(),
        "trained": load_predictor(arguments.predictor),
    }
    told = {name: server_errors(each, rows) for name, each in predictors.items()}
    devices = np.array([question.replica.accelerator.name for question in rows.questions])
    print("source    accelerator              predictor    rows  " + "  ".join(f"{each:>21}" for each in FIGURES))
    print(" " * 54 + "  ".join(f"{'error   bias  in 90 %':>21}" for _ in FIGURES))
    for source, device in sorted(set(zip(rows.source.tolist(), devices.tolist(), strict=True))):
        mine = (rows.source == source) & (devices == device)
        for name, (errors, sd) in told.items():
            cells = [f"{_cell(errors[mine, place], sd[mine, place]):>21}" for place in range(len(FIGURES))]
            print(f"{source:9} {device:24} {name:11} {mine.sum():5d}  " + "  ".join(cells))


if __name__ == "__main__":
    main()
