"""What can go wrong inside the library, told apart by who has to act.

Separate because both boxes and the tests import it, and it imports nothing. An answer is not an error: "nothing
fits the budget" is a `NoSelection`, never an exception.

    MetaInfError
      InvalidWorkloadError    what the user wrote cannot be right; permanent until it changes
        UnknownModelError     the model's config.json names an architecture that is not known, or no model is there
        OverridesDecisionError  an argument of the user's would undo what is decided
      HubError                the model hub did not answer; worth another try
      ArtifactError           the predictor's file is damaged or foreign; permanent until redeployed
        SchemaMismatchError   the file was written for another feature schema
      NotFittedError          predict before fit: a programming error
      UndefinedMetricError    the metric has no value on this input
"""

__all__ = [
    "ArtifactError",
    "HubError",
    "InvalidWorkloadError",
    "MetaInfError",
    "NotFittedError",
    "OverridesDecisionError",
    "SchemaMismatchError",
    "UndefinedMetricError",
    "UnknownModelError",
]


class MetaInfError(Exception):
    """Base of everything that this library raises on purpose."""


class InvalidWorkloadError(MetaInfError, ValueError):
    """What the user wrote cannot be right; the message says which field and what to write instead."""


class UnknownModelError(InvalidWorkloadError):
    """The model cannot be served as asked: its architecture is not known, or no such model is there."""


class OverridesDecisionError(InvalidWorkloadError):
    """What the user adds to the engine's arguments would undo what is decided."""


class HubError(MetaInfError):
    """The model hub could not be reached or failed; the same call may succeed later."""


class ArtifactError(MetaInfError):
    """A predictor's file cannot be used: damaged, truncated or not one of ours."""


class SchemaMismatchError(ArtifactError):
    """A predictor's file was written for another feature schema than this version's."""


class NotFittedError(MetaInfError, ValueError, AttributeError):
    """A predictor was asked before it was fitted."""


class UndefinedMetricError(MetaInfError, ValueError):
    """A metric has no value on this input, as closed gap where single best and virtual best coincide."""
