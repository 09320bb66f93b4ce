"""Arrivals in bursts as the requests in them see it: how many others are there before and come after.

Separate from the waits (`waits`) and from the percentiles that both go into: these are facts about streams of arrivals,
whatever is served.

Gaps between arrivals are gamma distributed with a squared coefficient of variation ca^2, as traffic is declared and
simulated.
"""

import numpy as np

from metainf.queueing import FloatArray

__all__ = ["arrivals_after", "dealt_squared_cv", "found_busy"]

_ITERATIONS = 2  # within 3 % of the root for ca^2 from 0.25 to 16
_LEAST_SQUARED_CV = 1e-3
_TINY, _MOST = 1e-12, 1e9


def dealt_squared_cv(arrival_squared_cv: FloatArray, servers: FloatArray) -> FloatArray:
    """Squared variation of what one of so many servers gets when a balancer deals bursts out to all of them."""
    more = arrival_squared_cv - 1.0
    return np.asarray(1.0 + np.where(more > 0, more / servers, more))


def found_busy(load: FloatArray, arrival_squared_cv: FloatArray) -> FloatArray:
    """Share of arrivals that find another one at a server: its load where they are Poisson, more where they burst.

    Source: the root of s = A(mu (1 - s)) of the queue GI/M/1, A the transform of the gaps (Kleinrock, Queueing Systems,
    volume 1, 6.4), by iteration from its value in heavy traffic; each iterate rises with the load.
    """
    ca = np.maximum(arrival_squared_cv, _LEAST_SQUARED_CV)
    stretch = ca / np.maximum(load, _TINY)
    idle = np.minimum(2.0 * (1.0 - load) / (ca + 1.0), 1.0)
    for _ in range(_ITERATIONS):
        idle = 1.0 - np.exp(-np.log(1.0 + stretch * idle) / ca)
    return np.asarray(1.0 - idle)


def arrivals_after(mean: FloatArray, arrival_squared_cv: FloatArray) -> FloatArray:
    """Others that arrive within a time after an arrival, where `mean` arrive within any such time.

    Taking the chance of one more to be alike after each, ((1 + ca^2 / mean)^(1 / ca^2) - 1)^-1 has both limits of the
    renewal function: for short times the chance of a gap that is shorter, for long ones mean + (ca^2 - 1) / 2 (Cox,
    Renewal Theory, 4.2).
    """
    ca = np.maximum(arrival_squared_cv, _LEAST_SQUARED_CV)
    gap = ca / np.clip(mean, _TINY, _MOST)
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (np.exp(np.log(1.0 + gap) / ca) - 1.0))
