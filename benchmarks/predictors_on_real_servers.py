"""How far predictors are off on real servers' rows: the analytical one, and one that `metainf train` wrote.

    python benchmarks/predictors_on_real_servers.py --wheel SITE_PACKAGES/aiconfigurator_core --measured FOLDER \
        --predictor FILE

Separate from `calibrate_analytical`, which fits constants on these rows: here nothing is fitted. The rows are the same
(`open_measurements`). The analytical predictor's constants have seen them, with what they are off by where a generation
is left out told by that benchmark. A trained one has four numbers of `metainf train --measured` from the silicon sample
and GPUStack, and nothing else of them: what it is off by with a row's generation or model held out of these is in its
manifest.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from open_measurements import Row, Specs, argonne_rows, gpustack_rows, silicon_rows

from metainf.artifact import load_predictor
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.contract import FloatArray, Predictor

_FIGURES = ("TTFT", "TPOT", "tokens/s")
_Z = 1.6448536269514722  # two-sided 90 %


def log_errors(predictor: Predictor, rows: Sequence[Row]) -> tuple[FloatArray, FloatArray]:
    """log(truth / prediction) of mean TTFT, mean TPOT and tokens per second, NaN where not measured; and its spread."""
    found = predictor.predict([row.question for row in rows])
    truth = np.array([[row.ttft_s, row.tpot_s, np.nan if row.derived else row.tokens_per_second] for row in rows])
    guess = np.stack([found.latency_s[:, 0, 0], found.latency_s[:, 1, 0], found.output_tokens_per_second], axis=1)
    sd = np.stack([found.latency_log_sd[:, 0, 0], found.latency_log_sd[:, 1, 0], found.throughput_log_sd], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.log(truth / guess)
    return np.where(np.isfinite(errors), errors, np.nan), sd


def main() -> None:
    """Print a table for each source, by accelerator."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True, help="the installed folder aiconfigurator_core")
    parser.add_argument("--measured", type=Path, required=True, help="the folder with the other two files")
    parser.add_argument("--predictor", type=Path, required=True, help="of `metainf train`")
    arguments = parser.parse_args()
    specs = Specs()
    rows = silicon_rows(arguments.wheel, specs)
    rows += argonne_rows(arguments.measured, specs) + gpustack_rows(arguments.measured, specs)
    predictors: dict[str, Predictor] = {
        "analytical": AnalyticalPredictor(),
        "trained": load_predictor(arguments.predictor),
    }
    told = {name: log_errors(each, rows) for name, each in predictors.items()}
    groups = [(row.source, row.question.replica.accelerator.name) for row in rows]
    print("source    accelerator              predictor    rows  " + "  ".join(f"{each:>21}" for each in _FIGURES))
    print(" " * 54 + "  ".join(f"{'error   bias  in 90 %':>21}" for _ in _FIGURES))
    for group in sorted(set(groups)):
        mine = np.array([each == group for each in groups])
        for name, (errors, sd) in told.items():
            cells = []
            for column in range(len(_FIGURES)):
                own = errors[mine, column]
                known = ~np.isnan(own)
                if not known.any():
                    cells.append(f"{'-':>21}")
                    continue
                held = np.abs(own[known]) <= _Z * sd[mine, column][known]
                # Errors and bias of the logarithm, as shares of the truth near 0.
                cells.append(
                    f"{np.median(np.abs(own[known])):>5.2f}  {np.median(own[known]):>+5.2f}  {held.mean():>7.0%}"
                )
            print(f"{group[0]:9} {group[1]:24} {name:11} {mine.sum():5d}  " + "  ".join(cells))


if __name__ == "__main__":
    main()
