"""What the judging of predictors found, as sections of a report, by kind of traffic.

Separate from the judging, whose values tests read without text.
"""

from collections.abc import Sequence

from metainf.corpus.task import TrafficKind
from metainf.evaluation.report_sections import calibration_section, intervals_section
from metainf.training.judging import Judgement
from metainf.training.spreads import CONFIDENCE

__all__ = ["judgement_sections"]


def judgement_sections(judgement: Judgement) -> Sequence[str]:
    """Intervals, then decisions, of each kind that has any."""
    sections = []
    for kind in TrafficKind:
        intervals = {
            f"{each.predictor}, {each.split}: {each.target} (error {each.median_error:.2f})": each.figures
            for each in judgement.intervals
            if each.kind is kind
        }
        if intervals:
            sections.append(intervals_section(intervals, "ln", about=str(kind)))
        decisions = {
            f"{d.predictor}, {d.split}{', among several places' if d.twins else ''}": d.figures
            for d in judgement.decisions
            if d.kind is kind
        }
        if decisions:
            sections.append(calibration_section(decisions, about=str(kind), confidence=CONFIDENCE))
    return sections
