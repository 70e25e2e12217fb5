"""docs/paper_map.md names functions and tests that exist."""

import importlib
import re
from functools import reduce
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "paper_map.md").read_text()
FUNCTIONS = sorted(set(re.findall(r"`(lwd\.[\w.]+)`", TEXT)))
TESTS = sorted(set(re.findall(r"`(tests/[\w/.]+)::(test_\w+)`", TEXT)))


def test_the_tables_are_read() -> None:
    assert len(FUNCTIONS) >= 20
    assert len(TESTS) >= 20


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_exists(name: str) -> None:
    room, module, *attributes = name.removeprefix("lwd.").split(".")
    assert callable(reduce(getattr, attributes, importlib.import_module(f"lwd.{room}.{module}")))


@pytest.mark.parametrize(("path", "test"), TESTS)
def test_test_exists(path: str, test: str) -> None:
    assert f"\ndef {test}(" in (ROOT / path).read_text()


@pytest.mark.parametrize("test", re.findall(r"\(`(test_\w+)`\)", TEXT))
def test_test_named_in_the_text_exists(test: str) -> None:
    assert test in {name for path in ROOT.glob("tests/conformance/*.py") for name in _tests_of(path)}


def _tests_of(path: Path) -> list[str]:
    return re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE)
