"""What the repeats of a task say together: performance over seeds, and how much a comparison of methods varies.

Separate from the tables that are read from files: the evaluation also asks this of half of the seeds, without files.

What the noise of a comparison is. The repeats of a task draw lengths, arrivals and acceptance anew, so P alone varies
with what was drawn: by 2 to 20 % between seeds where 1 to 6 % remain between methods. Methods of one seed meet the same
draws (common random numbers), and nobody compares them across seeds. So what counts is the standard deviation over
seeds of log(P / P[default]).
"""

import numpy as np

from metainf.selectors.contract import FloatArray, IntArray

__all__ = ["LEAST_TOLERANCE", "log_ratios", "over_seeds", "squares_over_seeds", "tolerances"]

LEAST_TOLERANCE = 0.02


def over_seeds(by_seed: FloatArray) -> FloatArray:
    """Geometric mean over the seeds that each task has, shape (n, m); 0 where a method failed under one of them.

    A failure is known and stays so: whoever learns from it must not take it for a method that did not run, which is
    NaN. A seed under which nothing works says nothing of methods and is left out; of a task without any other, all that
    ran has failed.

    Parameters
    ----------
    by_seed : array of shape (n, m, seeds)
        Performance: 0 where it failed, NaN where it did not run.
    """
    ran, works = ~np.isnan(by_seed), by_seed > 0.0
    counted = np.any(works, axis=1)
    counted |= ~np.any(counted, axis=1, keepdims=True)
    known = counted[:, None, :]
    failed = np.any(ran & ~works & known, axis=2)
    whole = np.all(works | ~known, axis=2) & np.any(counted, axis=1)[:, None]
    total = np.log(np.where(works, by_seed, 1.0)).sum(axis=2)
    mean = np.exp(total / np.maximum(counted.sum(axis=1), 1)[:, None])
    return np.where(failed, 0.0, np.where(whole, mean, np.nan))


def tolerances(by_seed: FloatArray, default: int) -> FloatArray:
    """Relative difference below which two methods of a task count as equal, shape (n,).

    The larger of 2 % and twice the standard deviation over seeds of log(P / P[default]), in the median over the task's
    other methods. A task with one seed, or whose default fails, has the median of the others; 2 % where there are none.

    Parameters
    ----------
    by_seed : array of shape (n, m, seeds)
        Performance of tasks of one kind: 0 where it failed, NaN where it did not run.
    default : int
        Column of vLLM's default.
    """
    squares, number = squares_over_seeds(np.delete(log_ratios(by_seed, default), default, axis=1))
    deviations = np.where(number > 1, np.sqrt(squares / np.maximum(number - 1, 1)), np.nan)
    by_task = np.array([_median(row) for row in deviations])
    usual = _median(by_task)
    found = np.where(np.isnan(by_task), 0.0 if np.isnan(usual) else usual, by_task)
    return np.maximum(LEAST_TOLERANCE, 2.0 * found)


def log_ratios(by_seed: FloatArray, default: int) -> FloatArray:
    """log(P / P[default]) of each seed, shape (n, m, seeds); NaN where one of the two failed or did not run."""
    logs = np.log(np.where(by_seed > 0.0, by_seed, np.nan))
    return np.asarray(logs - logs[:, [default]])


def squares_over_seeds(ratios: FloatArray) -> tuple[FloatArray, IntArray]:
    """Squares about the mean over seeds, summed, and the number of seeds that are known; shape (n, m) each."""
    counted = ~np.isnan(ratios)
    number = counted.sum(axis=2)
    mean = np.where(counted, ratios, 0.0).sum(axis=2) / np.maximum(number, 1)
    return (np.where(counted, ratios - mean[:, :, None], 0.0) ** 2).sum(axis=2), number


def _median(values: FloatArray) -> float:
    """Of those that are known; NaN of none."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else np.nan
