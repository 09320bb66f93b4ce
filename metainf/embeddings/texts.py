"""Which texts describe a task: three of them, E_model, E_hardware and E_data, in one of three styles.

Separate from the styles, which only word the facts, and from the encoders, which know no task.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from metainf.corpus.task import Task
from metainf.embeddings import plain_texts, reasoned_texts, rich_texts
from metainf.embeddings.facts import DataFacts, HardwareFacts, ModelFacts, data_facts, hardware_facts, model_facts

__all__ = ["PARTS", "TaskTexts", "TextStyle", "task_texts"]

PARTS = ("model", "hardware", "data")


class TextStyle(StrEnum):
    """How much a text says about its facts."""

    BASIC = "basic"
    RICH = "rich"
    REASONED = "chain-of-thought"


@dataclass(frozen=True, slots=True)
class TaskTexts:
    """The texts of one task; equal models, hardware or traffic have equal ones."""

    model: str
    hardware: str
    data: str

    def of(self, part: str) -> str:
        """The text of one of PARTS."""
        return {"model": self.model, "hardware": self.hardware, "data": self.data}[part]


@dataclass(frozen=True, slots=True)
class _Writers:
    model: Callable[[ModelFacts], str]
    hardware: Callable[[HardwareFacts], str]
    data: Callable[[DataFacts], str]


_WRITERS = {
    TextStyle.BASIC: _Writers(plain_texts.model_text, plain_texts.hardware_text, plain_texts.data_text),
    TextStyle.RICH: _Writers(rich_texts.model_text, rich_texts.hardware_text, rich_texts.data_text),
    TextStyle.REASONED: _Writers(reasoned_texts.model_text, reasoned_texts.hardware_text, reasoned_texts.data_text),
}


@lru_cache(maxsize=1 << 17)
def task_texts(task: Task, style: TextStyle) -> TaskTexts:
    """The task's texts; none of them names the model, the device or the traffic's origin."""
    writers = _WRITERS[style]
    return TaskTexts(
        writers.model(model_facts(task)), writers.hardware(hardware_facts(task)), writers.data(data_facts(task))
    )
