"""The embeddings of the ablation: one-hot, numbers, texts of each style through each encoder, and joined ones.

Separate from what they are put together from: texts, encoders and reduction know nothing of each other.
"""

import math
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from metainf.corpus.task import Task
from metainf.embeddings.contract import Embedding
from metainf.embeddings.encoders import Encoder
from metainf.embeddings.facts import hardware_facts, model_facts
from metainf.embeddings.reduction import Svd
from metainf.embeddings.texts import PARTS, TextStyle, task_texts
from metainf.errors import NotFittedError
from metainf.meta_features.schema import values_of
from metainf.meta_features.tasks import TASK_FEATURES, task_features
from metainf.meta_features.traffic import TRAFFIC_FEATURES
from metainf.selectors.scaling import Scaler

__all__ = ["BasicNumbers", "Joined", "OneHot", "PhysicsNumbers", "Reduced", "Scaled", "TextEmbedding"]

FloatArray = NDArray[np.float64]


def _names(embedding: object, learned: str) -> tuple[str, ...]:
    found: tuple[str, ...] | None = getattr(embedding, learned, None)
    if found is None:
        raise NotFittedError(f"asking {type(embedding).__name__} for vectors before it was fitted")
    return found


class OneHot:
    """A column for each model, accelerator, layout and coarse class of traffic that train has; the unknown is zeros."""

    categories_: tuple[str, ...]

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The categories."""
        return _names(self, "categories_")

    def fit(self, tasks: Sequence[Task]) -> Self:
        """Learn which categories there are."""
        self.categories_ = tuple(sorted({each for task in tasks for each in _categories(task)}))
        return self

    def transform(self, tasks: Sequence[Task]) -> FloatArray:
        """Ones and zeros, shape (n, categories)."""
        places = {name: place for place, name in enumerate(self.feature_names)}
        found = np.zeros((len(tasks), len(places)))
        for row, task in enumerate(tasks):
            known = [places[each] for each in _categories(task) if each in places]
            found[row, known] = 1.0
        return found


def _categories(task: Task) -> tuple[str, ...]:
    """Lengths and loads by powers of two: exact numbers would be ids of single tasks."""
    t, prefix = task.traffic, task.traffic.shared_prefix
    size = values_of(TRAFFIC_FEATURES, t)[-1] or values_of(TRAFFIC_FEATURES, t)[-2]
    return (
        f"model {task.model}",
        f"accelerator {task.accelerator}",
        f"layout {task.layout.name}",
        f"input 2^{_octave(t.input_tokens.mean_tokens)}",
        f"output 2^{_octave(t.output_tokens.mean_tokens)}",
        f"load {task.kind} 2^{round(size / math.log(2.0))}",
        f"prefix 2^{_octave(prefix.tokens) if prefix is not None and prefix.tokens else 'none'}",
        f"repetitiveness {t.repetitiveness}",
        f"burstiness {round(2.0 * t.burstiness) / 2.0:g}",
        f"promises {'+'.join(sorted({bound.metric for bound in task.slo.bounds})) or 'none'}",
    )


def _octave(value: float) -> int:
    return round(math.log2(max(value, 1.0)))


class BasicNumbers:
    """Basic descriptors as numbers: sizes, speeds, lengths and loads as declared, no physics derived from them."""

    names_: tuple[str, ...]

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the descriptors."""
        return _names(self, "names_")

    def fit(self, tasks: Sequence[Task]) -> Self:
        """There is nothing to learn."""
        self.names_ = (*_BASIC_NAMES, *(f.name for f in TRAFFIC_FEATURES))
        return self

    def transform(self, tasks: Sequence[Task]) -> FloatArray:
        """Descriptors, shape (n, d); sizes and speeds in logarithms."""
        width = len(self.feature_names)
        rows = [(*_basic(task), *values_of(TRAFFIC_FEATURES, task.traffic)) for task in tasks]
        return np.array(rows, dtype=np.float64).reshape(len(rows), width)


_BASIC_NAMES = (
    *("parameters", "active_parameters", "layers", "hidden_size", "kv_heads", "experts", "weight_bytes", "context"),
    *("memory", "bandwidth", "flops", "power", "tensor_parallel", "pipeline_parallel", "data_parallel"),
)


def _basic(task: Task) -> tuple[float, ...]:
    m, h, layout = model_facts(task), hardware_facts(task), task.layout
    values = (
        *(m.parameters, m.active_parameters, m.layers, m.hidden_size, m.kv_heads + 1, m.experts + 1),
        *(m.weight_bytes, m.max_context_tokens),
        *(h.memory_bytes, h.bandwidth, h.flops, h.tdp_w),
        *(layout.tensor_parallel, layout.pipeline_parallel, layout.data_parallel),
    )
    return tuple(math.log(value) for value in values)


class PhysicsNumbers:
    """The meta-features: descriptors with what the roofline derives from them."""

    names_: tuple[str, ...]

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features."""
        return _names(self, "names_")

    def fit(self, tasks: Sequence[Task]) -> Self:
        """There is nothing to learn."""
        self.names_ = tuple(f.name for f in TASK_FEATURES)
        return self

    def transform(self, tasks: Sequence[Task]) -> FloatArray:
        """Features, shape (n, d); NaN for tasks that no method can serve."""
        _names(self, "names_")
        return task_features(tasks)


class TextEmbedding:
    """E_model, E_hardware and E_data side by side: texts of one style through a frozen encoder.

    Parameters
    ----------
    style : TextStyle
    encoder : Encoder
    rank : int, optional
        Each of the three is reduced to so many columns by an SVD over its distinct train texts; None leaves them whole.
    parts : names among PARTS
    """

    reductions_: dict[str, Svd]
    names_: tuple[str, ...]

    def __init__(
        self, style: TextStyle, encoder: Encoder, *, rank: int | None = None, parts: tuple[str, ...] = PARTS
    ) -> None:
        self.style = style
        self.encoder = encoder
        self.rank = rank
        self.parts = parts

    @property
    def feature_names(self) -> tuple[str, ...]:
        """E_model_0 and so on."""
        return _names(self, "names_")

    def fit(self, tasks: Sequence[Task]) -> Self:
        """Learn the directions that train texts differ in."""
        self.reductions_ = {}
        if self.rank is not None:
            for part, texts in self._texts(tasks).items():
                self.reductions_[part] = Svd(self.rank).fit(self.encoder.encode(sorted(set(texts))))
        width = self.encoder.dimensions if self.rank is None else self.rank
        self.names_ = tuple(f"E_{part}_{place}" for part in self.parts for place in range(width))
        return self

    def transform(self, tasks: Sequence[Task]) -> FloatArray:
        """Vectors, shape (n, parts x width)."""
        _names(self, "names_")
        blocks = []
        for part, texts in self._texts(tasks).items():
            vectors = self.encoder.encode(texts)
            blocks.append(self.reductions_[part].transform(vectors) if self.rank is not None else vectors)
        return np.concatenate(blocks, axis=1)

    def _texts(self, tasks: Sequence[Task]) -> dict[str, list[str]]:
        texts = [task_texts(task, self.style) for task in tasks]
        return {part: [each.of(part) for each in texts] for part in self.parts}


class Reduced:
    """Another embedding on the directions that its train rows differ in most.

    Parameters
    ----------
    embedding : Embedding
    rank : int
    """

    svd_: Svd
    names_: tuple[str, ...]

    def __init__(self, embedding: Embedding, rank: int) -> None:
        self.embedding = embedding
        self.rank = rank

    @property
    def feature_names(self) -> tuple[str, ...]:
        """svd_0 and so on."""
        return _names(self, "names_")

    def fit(self, tasks: Sequence[Task]) -> Self:
        """Fit the other and learn the directions of its rows, in an order that does not depend on the tasks'."""
        rows = self.embedding.fit(tasks).transform(tasks)
        self.svd_ = Svd(self.rank).fit(np.unique(rows, axis=0))
        self.names_ = tuple(f"svd_{place}" for place in range(self.rank))
        return self

    def transform(self, tasks: Sequence[Task]) -> FloatArray:
        """Vectors, shape (n, rank)."""
        _names(self, "names_")
        return self.svd_.transform(self.embedding.transform(tasks))


class Scaled:
    """Another embedding with each column by its spread over the train rows, and its mean there where it says nothing.

    Numbers have units: an SVD of them as they are would find the column with the largest.

    Parameters
    ----------
    embedding : Embedding
    """

    scaler_: Scaler
    names_: tuple[str, ...]

    def __init__(self, embedding: Embedding) -> None:
        self.embedding = embedding

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Those of the other."""
        return _names(self, "names_")

    def fit(self, tasks: Sequence[Task]) -> Self:
        """Fit the other and learn the spreads of its columns, in an order that does not depend on the tasks'."""
        rows = self.embedding.fit(tasks).transform(tasks)
        self.scaler_ = Scaler().fit(rows[np.lexsort(rows.T)])
        self.names_ = self.embedding.feature_names
        return self

    def transform(self, tasks: Sequence[Task]) -> FloatArray:
        """Vectors, shape (n, d), finite everywhere."""
        _names(self, "names_")
        return self.scaler_.transform(self.embedding.transform(tasks))


class Joined:
    """Embeddings side by side.

    Parameters
    ----------
    embeddings : embeddings by the name that goes before their columns
    """

    fitted_: dict[str, Embedding]
    names_: tuple[str, ...]

    def __init__(self, **embeddings: Embedding) -> None:
        self.embeddings = embeddings

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Each with the name of its embedding before it."""
        return _names(self, "names_")

    def fit(self, tasks: Sequence[Task]) -> Self:
        """Fit each of them."""
        self.fitted_ = {name: each.fit(tasks) for name, each in self.embeddings.items()}
        self.names_ = tuple(f"{name}.{column}" for name, each in self.fitted_.items() for column in each.feature_names)
        return self

    def transform(self, tasks: Sequence[Task]) -> FloatArray:
        """All their columns, shape (n, d)."""
        _names(self, "names_")
        return np.concatenate([each.transform(tasks) for each in self.fitted_.values()], axis=1)
