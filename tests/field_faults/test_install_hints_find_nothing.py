"""`pip install 'lwd[all]'` finds nothing: LWD is on no index. Every text and hint says what works, in one step."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lwd.cli.main import EXTRAS, VERBS
from lwd.commands import NEEDS_PYTHON, install_command, missing_extra

ROOT = Path(__file__).parents[2]
DECLARED = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def texts() -> list[Path]:
    folders = [ROOT / "src", ROOT / "docs", ROOT / "benchmarks", ROOT / "tests"]
    found = [path for folder in folders for suffix in ("py", "md") for path in folder.rglob(f"*.{suffix}")]
    top = [ROOT / name for name in ("README.md", "SECURITY.md", "Makefile")]
    return [*top, *(path for path in found if path != Path(__file__))]


def test_no_text_installs_from_an_index_that_has_no_lwd():
    pattern = re.compile(r"""pip install (?:-\S+ )*['"]?lwd\b""")
    assert [(path.name, found) for path in texts() for found in pattern.findall(path.read_text())] == []


def test_every_extra_that_a_text_or_hint_names_is_declared():
    named = {extra for verb in VERBS.values() for extra in verb.extras} | set(EXTRAS.values()) | set(NEEDS_PYTHON)
    for path in texts():
        for found in re.finditer(r"'\.\[([a-z,]+)\]'", path.read_text()):
            named |= set(found[1].split(","))
    calls = 0
    for path in (ROOT / "src").rglob("*.py"):
        if path.name in ("main.py", "commands.py") or "missing_extra(" not in (text := path.read_text()):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "missing_extra":
                named |= set(ast.literal_eval(node.args[2]))
                calls += 1
    assert calls >= 5  # adapters, LeRobot's policies and environments, the bus, the console
    assert named <= DECLARED


def test_a_hint_in_a_checkout_names_the_checkout_and_this_python():
    command = install_command(["report", "edge"])
    assert command == f"{sys.executable} -m pip install --editable '{ROOT}[edge,report]'"


def installed(tmp_path: Path, direct_url: str | None, *extras: str) -> str:
    """What the module says where it is installed as pip installs it: with its metadata beside it."""
    (tmp_path / "lwd").mkdir()
    (tmp_path / "lwd" / "__init__.py").touch()
    (tmp_path / "lwd" / "commands.py").write_bytes((ROOT / "src/lwd/commands.py").read_bytes())
    metadata = tmp_path / "lwd-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: lwd\nVersion: 0.1.0\n")
    if direct_url is not None:
        (metadata / "direct_url.json").write_text(direct_url)
    code = "import sys; from lwd.commands import install_command; print(install_command(sys.argv[1:]))"
    # Without this interpreter's site-packages, where lwd is installed, too; so there is no pip, as where uv made it.
    command = [sys.executable, "-S", "-c", code, *extras]
    environment = {"PYTHONPATH": str(tmp_path)}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()


@pytest.mark.parametrize(
    ("direct_url", "words"),
    [
        ('{"dir_info": {}, "url": "file:///home/ada/my%20lwd"}', "'/home/ada/my lwd[report]'"),
        (
            '{"archive_info": {}, "url": "file:///tmp/lwd-0.1.0-py3-none-any.whl"}',
            "'lwd[report] @ file:///tmp/lwd-0.1.0-py3-none-any.whl'",
        ),
        (
            '{"vcs_info": {"vcs": "git", "commit_id": "0af3"}, "url": "https://example.org/lwd.git"}',
            "'lwd[report] @ git+https://example.org/lwd.git@0af3'",
        ),
        (None, "'lwd[report]==0.1.0'"),  # from an index: there it is
    ],
)
def test_a_hint_installs_from_where_lwd_came_from(tmp_path, direct_url, words):
    command = installed(tmp_path, direct_url, "report")
    assert command == f"uv pip install --python {sys.executable} {words}"


def test_an_extra_of_a_newer_python_gets_an_environment_of_that_python(monkeypatch):
    """For an older Python pip installs nothing of it, without a word."""
    monkeypatch.setattr(sys, "version_info", (3, 11, 4, "final", 0))
    hint = missing_extra("lwd data import", "lerobot", ["lerobot"])
    assert (
        f"python3.12 -m venv lwd-python3.12 && lwd-python3.12/bin/pip install --editable '{ROOT}[all,lerobot]'" in hint
    )
    assert hint.endswith("then call lwd-python3.12/bin/lwd (the extra needs Python 3.12 or newer)")
    monkeypatch.setattr(sys, "version_info", (3, 12, 0, "final", 0))
    assert missing_extra("lwd data import", "lerobot", ["lerobot"]).endswith(f"'{ROOT}[lerobot]'")
