"""`--predictor`: which predictor a command answers with.

Separate because several commands take the option, and must mean the same by it.
"""

import argparse
from pathlib import Path

from metainf.artifact import load_predictor
from metainf.cli.console import note
from metainf.errors import ArtifactError, InvalidWorkloadError
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.contract import Predictor
from metainf.predictors.default import default_predictor

__all__ = ["add_predictor_option", "chosen_predictor"]

_ANALYTICAL = "analytical"


def add_predictor_option(parser: argparse.ArgumentParser) -> None:
    """Add the option to a command."""
    parser.add_argument(
        "--predictor",
        metavar="analytical|FILE",
        help="the analytical predictor, or the file of a trained one (default: the one that is shipped, "
        "or the analytical one where none is)",
    )


def chosen_predictor(name: str | None) -> Predictor:
    """The predictor that was asked for; without a wish the shipped one, or the analytical one with a note.

    Raises
    ------
    InvalidWorkloadError
        The file that was named cannot be used.
    """
    if name == _ANALYTICAL:
        return AnalyticalPredictor()
    if name is not None:
        try:
            return load_predictor(Path(name))
        except ArtifactError as error:
            raise InvalidWorkloadError(str(error)) from error
    predictor, why = default_predictor()
    if why is not None:
        note(f"{why}; predicting analytically instead")
    return predictor
