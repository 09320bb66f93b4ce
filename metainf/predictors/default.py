"""Which predictor is used: the trained one that is shipped or named, or the analytical one where there is none.

Separate so that the command line, `kubectl metainf` and the operator agree, and so that the contract stays importable
without either.
"""

from pathlib import Path

from metainf.artifact import load_predictor
from metainf.errors import ArtifactError
from metainf.predictors.analytical import AnalyticalPredictor
from metainf.predictors.contract import Predictor

__all__ = ["SHIPPED", "default_predictor"]

SHIPPED = Path(__file__).parents[1] / "data" / "predictor.metainf"


def default_predictor(path: Path | None = None) -> tuple[Predictor, str | None]:
    """The predictor of this file, or of the shipped one; and, where that cannot be used, why it is the analytical one.

    A version that ships none is not at fault: then the analytical predictor comes without a reason.
    """
    if path is None and not SHIPPED.exists():
        return AnalyticalPredictor(), None
    try:
        return load_predictor(SHIPPED if path is None else path), None
    except ArtifactError as error:
        return AnalyticalPredictor(), str(error)
