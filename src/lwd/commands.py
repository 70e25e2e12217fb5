"""Commands, addresses and installations as they are printed: right when somebody copies them into a shell."""

import importlib.util
import json
import shlex
import sys
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

NEEDS_PYTHON = {"lerobot": (3, 12)}
"""Extra -> the oldest Python that its packages support; pip installs nothing of it for an older one."""


def lwd_command(*words: object) -> str:
    """Return an `lwd` command line; words with spaces, quotes or other characters of the shell are quoted."""
    return shlex.join(("lwd", *map(str, words)))


def host_port(host: str, port: int) -> str:
    """Return HOST:PORT as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def without_brackets(host: str) -> str:
    """Return an address as a socket takes it: [::1] is ::1."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def install_command(extras: Iterable[str]) -> str:
    """Return the command that adds extras to this installation of lwd, from any directory.

    It installs from where lwd came from: a checkout, a file, a repository, or the package index. Where an extra needs
    a newer Python than this one, it makes a virtual environment with that Python, and everything in it.
    """
    if (newer := _newer_python(extras)) is not None:
        made, _ = newer
        return (
            f"{shlex.join((made.name.removeprefix('lwd-'), '-m', 'venv', str(made)))} && "
            f"{shlex.join((str(made / 'bin' / 'pip'), 'install', *_requirement({'all', *extras})))}"
        )
    pip: tuple[str, ...] = (sys.executable, "-m", "pip", "install")
    if importlib.util.find_spec("pip") is None:  # as in environments that uv makes
        pip = ("uv", "pip", "install", "--python", sys.executable)
    return shlex.join((*pip, *_requirement(extras)))


def missing_extra(what: str, module: str, extras: Iterable[str]) -> str:
    """Return what to say about a module that is not installed.

    Args:
        what: needs it, such as `lwd report`.
        extras: all that it needs, so that one command is enough.
    """
    text = f"{what} needs {module}, which is not installed: {install_command(extras)}"
    if (newer := _newer_python(extras)) is None:
        return text
    made, version = newer
    return f"{text}; then call {made / 'bin' / 'lwd'} (the extra needs Python {version} or newer)"


def _newer_python(extras: Iterable[str]) -> tuple[Path, str] | None:
    """Return the virtual environment to make, and its Python's version; None if this Python is new enough."""
    needed = max((NEEDS_PYTHON.get(extra, (0, 0)) for extra in extras), default=(0, 0))
    version = ".".join(map(str, needed))
    return None if needed <= sys.version_info[:2] else (Path(f"lwd-python{version}"), version)


def _requirement(extras: Iterable[str]) -> tuple[str, ...]:
    """Return pip's words for lwd with these extras, from where this lwd came."""
    wanted = f"[{','.join(sorted(set(extras)))}]"
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file():
        return ("--editable", f"{checkout}{wanted}")
    lwd = distribution("lwd")
    origin = json.loads(lwd.read_text("direct_url.json") or "{}")
    url = str(origin.get("url", ""))
    if "dir_info" in origin:
        return (f"{unquote(urlsplit(url).path)}{wanted}",)
    if (repository := origin.get("vcs_info")) is not None:
        return (f"lwd{wanted} @ {repository['vcs']}+{url}@{repository['commit_id']}",)
    return (f"lwd{wanted} @ {url}",) if url else (f"lwd{wanted}=={lwd.version}",)
