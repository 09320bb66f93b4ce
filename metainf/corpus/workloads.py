"""Workloads for a place: from a point of the unit cube to lengths, load, prefixes and promises.

Separate from the design, which spreads the points and picks the places: here each axis of the cube gets its meaning.

Lengths, gaps and prefixes come from a trace's fitted distributions or from the designed grid. Loads and promises are
put where a person would put them: around what the analytical predictor, which knows datasheet and declaration alone,
says of vLLM's default. All figures are rounded to what a manifest can say.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

from metainf.corpus.fitted import FITTED, Spread
from metainf.corpus.places import Place
from metainf.traces import TraceName
from metainf.workload import Repetitiveness, SharedPrefix, TokenLengths, longest_tokens

__all__ = ["AXES", "GRID", "MOST_BURSTINESS", "Shape", "drawn_shape", "log_between", "significant"]

GRID = "grid"
AXES = (
    *("kind", "origin", "accelerator", "layout"),
    *("input_mean", "input_spread", "output_mean", "output_spread"),
    *("burstiness", "prefix", "prefix_share", "prefix_ratio", "prefixes", "repetitiveness"),
    *("load", "slo_kind", "slo_statistic", "slo_ttft", "slo_rest", "draft_model", "twins"),
)

MOST_BURSTINESS = 4.0
"""Azure's code trace has 8.9, of bursts on every scale, which no renewal process has: p95 of a run of gaps that rare
would take a million requests to settle."""

_INPUT_TOKENS = (32.0, 32_768.0)
_OUTPUT_TOKENS = (8.0, 4_096.0)  # in the mean: what models that think aloud write
_CONSTANT_SHARE = 0.25
_P95_RATIO = (1.2, 3.6)
_BURSTINESS = (0.5, 4.0)
_PREFIX_SHARE = 0.5  # of the grid's workloads have shared prefixes
_PREFIX_OF_PROMPT = (0.1, 0.95)
_PREFIX_RATIO = (0.2, 1.0)
_PREFIXES = (1.0, 10_000.0)
_GRID_SHARE = 0.6  # the rest falls on the traces in equal parts
_LEAST_TOKENS = 4.0
_LARGEST_P95_RATIO = 3.8  # a manifest takes 3.86
_CACHE_RATIO = 0.75  # of the estimate; `metainf.memory` takes 0.8 for enough, and lengths are rounded
_NORMAL = NormalDist()

Point = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Shape:
    """A traffic short of its load."""

    origin: str
    input_tokens: TokenLengths
    output_tokens: TokenLengths
    shared_prefix: SharedPrefix | None
    repetitiveness: Repetitiveness
    burstiness: float


def drawn_shape(point: Point, place: Place) -> Shape:
    """What the point asks of the place: lengths are shortened, in proportion, to what its cache and context hold."""
    origin, figures = _figures(point)
    lengths = _fitted_to(figures, place)
    prefix = _prefix(figures, lengths[0])
    kinds = tuple(Repetitiveness)
    return Shape(
        origin=origin,
        input_tokens=lengths[0],
        output_tokens=lengths[1],
        shared_prefix=prefix,
        repetitiveness=kinds[min(int(point["repetitiveness"] * len(kinds)), len(kinds) - 1)],
        burstiness=round(min(figures.burstiness, MOST_BURSTINESS), 2),
    )


@dataclass(frozen=True, slots=True)
class _Figures:
    input_mean: float
    input_ratio: float
    output_mean: float
    output_ratio: float
    burstiness: float
    prefix_share: float
    prefix_ratio: float
    prefixes: float


def _figures(point: Point) -> tuple[str, _Figures]:
    place = point["origin"]
    if place < _GRID_SHARE:
        return GRID, _grid(point)
    names = tuple(TraceName)
    which = min(int((place - _GRID_SHARE) / (1.0 - _GRID_SHARE) * len(names)), len(names) - 1)
    return names[which].value, _of_trace(point, names[which])


def _grid(point: Point) -> _Figures:
    shared = point["prefix"] < _PREFIX_SHARE
    return _Figures(
        input_mean=log_between(_INPUT_TOKENS, point["input_mean"]),
        input_ratio=_ratio(point["input_spread"]),
        output_mean=log_between(_OUTPUT_TOKENS, point["output_mean"]),
        output_ratio=_ratio(point["output_spread"]),
        burstiness=log_between(_BURSTINESS, point["burstiness"]),
        prefix_share=_between(_PREFIX_OF_PROMPT, point["prefix_share"]) if shared else 0.0,
        prefix_ratio=_between(_PREFIX_RATIO, point["prefix_ratio"]),
        prefixes=log_between(_PREFIXES, point["prefixes"]),
    )


def _of_trace(point: Point, name: TraceName) -> _Figures:
    fit = FITTED[name]

    def drawn(spread: Spread | None, axis: str) -> float:
        return 0.0 if spread is None else spread.at(_NORMAL.inv_cdf(min(max(point[axis], 1e-9), 1.0 - 1e-9)))

    return _Figures(
        input_mean=drawn(fit.input_tokens, "input_mean"),
        input_ratio=drawn(fit.input_p95_ratio, "input_spread"),
        output_mean=drawn(fit.output_tokens, "output_mean"),
        output_ratio=drawn(fit.output_p95_ratio, "output_spread"),
        burstiness=drawn(fit.burstiness, "burstiness"),
        prefix_share=drawn(fit.prefix_share, "prefix_share"),
        prefix_ratio=drawn(fit.prefix_ratio, "prefix_ratio"),
        prefixes=drawn(fit.prefixes, "prefixes"),
    )


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + share * (ends[1] - ends[0])


def log_between(ends: tuple[float, float], share: float) -> float:
    """The number that lies so far between two, in the logarithm."""
    return float(ends[0] * (ends[1] / ends[0]) ** share)


def _ratio(share: float) -> float:
    """p95 over mean, 1 for constant lengths."""
    if share < _CONSTANT_SHARE:
        return 1.0
    return _between(_P95_RATIO, (share - _CONSTANT_SHARE) / (1.0 - _CONSTANT_SHARE))


def _fitted_to(figures: _Figures, place: Place) -> tuple[TokenLengths, TokenLengths]:
    asked = [
        _lengths(mean, ratio)
        for mean, ratio in ((figures.input_mean, figures.input_ratio), (figures.output_mean, figures.output_ratio))
    ]
    longest = longest_tokens(asked[0], asked[1])
    scale = min(1.0, _CACHE_RATIO * min(place.cache_tokens, place.max_context_tokens) / longest)
    return (
        _lengths(figures.input_mean * scale, figures.input_ratio),
        _lengths(figures.output_mean * scale, figures.output_ratio),
    )


def _lengths(mean_tokens: float, p95_ratio: float) -> TokenLengths:
    mean = float(round(max(significant(mean_tokens), _LEAST_TOKENS)))
    if p95_ratio <= 1.0:
        return TokenLengths(mean)
    return TokenLengths(mean, float(math.floor(mean * min(p95_ratio, _LARGEST_P95_RATIO))))


def _prefix(figures: _Figures, lengths: TokenLengths) -> SharedPrefix | None:
    tokens = round(min(figures.prefix_share, 0.98) * lengths.mean_tokens)
    if tokens < 1 or tokens >= lengths.mean_tokens:
        return None
    ratio = round(min(max(figures.prefix_ratio, 0.01), 1.0), 2)
    return SharedPrefix(tokens, ratio, max(1, round(significant(figures.prefixes))))


def significant(value: float, digits: int = 3) -> float:
    """The value with so many significant digits, as a person writes it."""
    return float(f"{value:.{digits}g}")
