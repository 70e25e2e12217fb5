"""From an embedding back to its text, for models that read text themselves."""

import numpy as np
import pytest

from lwd.errors import ConfigError
from lwd.models.instruction import EMBEDDING_SIZE, InstructionEncoder


def embedding(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=EMBEDDING_SIZE)
    return (vector / np.linalg.norm(vector) * np.sqrt(EMBEDDING_SIZE)).astype(np.float32)


def test_the_nearest_known_text_is_found_through_noise():
    known = {f"text {seed}": embedding(seed) for seed in range(20)}
    noise = 0.1 * np.random.default_rng(99).normal(size=(20, EMBEDDING_SIZE)).astype(np.float32)
    found = InstructionEncoder(known).texts(np.stack(list(known.values())) + noise)
    assert found == list(known)


@pytest.mark.parametrize("error", [-2e-7, 0.0, 2e-7])
def test_of_equal_embeddings_the_first_text_is_taken_whatever_rounding_says(error):
    """The sentence encoder does not tell "Open the drawer" from "open the drawer"."""
    twin = embedding(1)
    known = {"other": embedding(0), "Open it": twin, "open it": (twin * (1 + error)).astype(np.float32)}
    encoder = InstructionEncoder(known)
    for size in (1, 2, 7, 64):
        assert set(encoder.texts(np.stack([twin] * size))) == {"Open it"}


def test_without_any_known_text_it_says_so():
    with pytest.raises(ConfigError, match="no instruction is known yet"):
        InstructionEncoder().texts(np.zeros((1, EMBEDDING_SIZE), np.float32))
