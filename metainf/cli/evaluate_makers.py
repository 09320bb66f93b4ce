"""What makes the selectors of `metainf evaluate` anew for each fold, and says by a text what it makes.

Separate from the command, which says what is run. What is fitted is kept under that text (`metainf.evaluation.fits`):
whatever a selector depends on besides rows and tasks has to be in it.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from metainf.cli.evaluate_lessons import LessonsOf
from metainf.evaluation.kept_files import content_digest
from metainf.evaluation.simulated import SIMULATOR_ONLY, NotTold, SimulatedPerformance
from metainf.selectors.catalogue import SELECTORS
from metainf.selectors.simulator_only import SimulatorOnly

if TYPE_CHECKING:
    from metainf.selectors.contract import MethodTable

__all__ = ["Seeded", "Simulated", "Untold"]

_FITTING = "metainf.evaluation.fold_outcomes"
_SIMULATED = "metainf.evaluation.simulated"


class Seeded:
    """Makes the selector of that name; of a corpus it reads the rows when the first is made, in that process."""

    def __init__(self, name: str, seed: int, parameters: Mapping[str, object]) -> None:
        self._name = name
        self._seed = seed
        self._parameters = parameters
        self.identity = _identity(name, seed, parameters)

    def __call__(self) -> Any:
        """A new one of the selector."""
        given = {key: each() if isinstance(each, LessonsOf) else each for key, each in self._parameters.items()}
        return SELECTORS[self._name](random_state=self._seed, **given)


class Untold:
    """Makes another one's selector, which is told nothing of what simulations say."""

    def __init__(self, maker: Seeded) -> None:
        self._maker = maker
        self.identity = f"not told, code {_code(_SIMULATED)}: {maker.identity}"

    def __call__(self) -> NotTold:
        """A new one."""
        return NotTold(self._maker())


class Simulated:
    """Makes the selector that only looks simulations up, which are of these tables."""

    def __init__(self, said: SimulatedPerformance, tables: "Sequence[MethodTable]") -> None:
        self._said = said
        self.identity = f"{SIMULATOR_ONLY} of {content_digest(*tables)}, code {_code(_SIMULATED, _FITTING)}"

    def __call__(self) -> SimulatorOnly:
        """A new one."""
        return SimulatorOnly(self._said)


def _identity(name: str, seed: int, parameters: Mapping[str, object]) -> str:
    entry = SELECTORS[name]
    given = sorted({**entry.parameters, **parameters}.items())
    told = [f"{key}={each.identity if isinstance(each, LessonsOf) else repr(each)}" for key, each in given]
    if entry.seeded:
        told.append(f"seed={seed}")
    code = _code(f"metainf.selectors.{entry.module}", _FITTING)
    return f"{name}: {entry.module}.{entry.name}({', '.join(told)}), code {code}"


def _code(*modules: str) -> str:
    """Of these modules with all that they import; what finds them is loaded when a selector is to be made."""
    identities: Any = import_module("metainf.evaluation.identities")
    return str(identities.code_digest(*modules))
