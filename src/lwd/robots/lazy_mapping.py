"""What is read only when somebody looks."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any


class LazyMapping(Mapping[str, Any]):
    """Calls its source when somebody first looks: most steps nobody asks for privileged state."""

    def __init__(self, source: Callable[[], Mapping[str, Any]]) -> None:
        self._source = source
        self._content: Mapping[str, Any] | None = None

    def _read(self) -> Mapping[str, Any]:
        if self._content is None:
            self._content = self._source()
        return self._content

    def __getitem__(self, key: str) -> Any:
        return self._read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())
