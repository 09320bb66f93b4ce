"""One small trained model for all tests that need one: trained once in a process, on the distorted corpus."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from distorted_corpus import corpus
from metainf.predictors.corrections import TrainedModel
from metainf.predictors.trained import TrainedPredictor
from metainf.training.boosting import Growth
from metainf.training.train import TrainingPlan, TrainingReport, train, write_artifact

__all__ = ["PLAN", "artifact_bytes", "predictor", "trained"]

PLAN = TrainingPlan(growth=Growth(trees=50, learning_rate=0.2), most_folds=3)


@cache
def trained() -> tuple[TrainedModel, TrainingReport]:
    table, tasks = corpus()
    return train(table, tasks, PLAN)


@cache
def artifact_bytes() -> bytes:
    model, report = trained()
    path = Path(mkdtemp()) / "predictor.metainf"
    write_artifact(model, report, path, corpus_digest="sha256:0", world="own", seed=PLAN.seed)
    data = path.read_bytes()
    path.unlink()
    path.parent.rmdir()
    return data


def predictor() -> TrainedPredictor:
    """A predictor of its own, with nothing remembered."""
    return TrainedPredictor(trained()[0], "sha256:0")
