"""Names for the tasks of recorded instructions: two texts never share one."""

import hashlib
import re
from collections.abc import Iterable

_MAX_LETTERS = 64


class TaskNames:
    """Gives names, and remembers whose they are.

    A text that the run knows keeps its name there. Another gets its words in lower case, joined by `_`
    ("Pick up the cup." is pick_up_the_cup), if they are its own; where another text has that name already, or the words
    do not tell it (none in ASCII, too many), the name ends in a piece of the text's hash.
    """

    def __init__(self, known: Iterable[tuple[str, str]] = ()) -> None:
        """
        Args:
            known: (name, text) of the run's episodes.
        """
        self._name_of: dict[str, str] = {}
        self._taken: set[str] = set()
        for name, text in known:
            self._name_of.setdefault(text, name)
            self._taken.add(name)

    def name(self, text: str) -> str:
        """Return the name of a text: the same whenever it is asked for."""
        if text not in self._name_of:
            words = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
            told = text.isascii() and len(words) <= _MAX_LETTERS and _says_all(words, text)
            self._name_of[text] = words if told and words not in self._taken else self._with_hash(words, text)
            self._taken.add(self._name_of[text])
        return self._name_of[text]

    def _with_hash(self, words: str, text: str) -> str:
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
        stem = words[:_MAX_LETTERS].rstrip("_")
        return next(
            name for length in range(8, 65, 8) if (name := f"{stem}_{digest[:length]}".lstrip("_")) not in self._taken
        )


def _says_all(words: str, text: str) -> bool:
    """Whether a name leaves nothing out that tells texts apart, such as a sign or a decimal point."""
    return bool(words) and re.fullmatch(r"[A-Za-z0-9]+([ _,]+ *[A-Za-z0-9]+)*[.!]?", text.strip()) is not None
