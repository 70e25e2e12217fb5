"""Other projects' replay buffers, each in its own virtual environment outside the repository."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_INSTALL_WITHIN_S = 1200.0
_RUN_WITHIN_S = 600.0


class PeerUnavailable(Exception):
    """A peer could not be installed or run; the message is the reason that the results page gives."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A project we measure beside ours."""

    name: str
    title: str
    script: str
    requirements: tuple[str, ...]
    python: str = "3.11"
    task: dict[str, str] = field(default_factory=dict)
    """What each of the script's rates stands for, in words."""


PEERS = (
    Peer(
        name="torchrl",
        title="TorchRL",
        script="peer_torchrl.py",
        requirements=("torch==2.13.0", "torchrl==0.14.1"),
        task={
            "slices": "steps as recorded, chunks cut by SliceSampler (all 5 next observations come along)",
            "flat": "chunk and next state put together at writing, RandomSampler",
            "images flat": "the same with images and next images, uint8",
        },
    ),
    Peer(
        name="lerobot",
        title="LeRobot",
        script="peer_lerobot.py",
        requirements=("lerobot[dataset]==0.6.1",),
        python="3.12",
        task={
            "flat": "the chunk as one action vector, put together at writing; next state = next row",
            "images flat": "the same with images, float32 in its storage; augmentation off",
        },
    ),
)


@dataclass(frozen=True, kw_only=True)
class PeerRates:
    """What a peer's script measured, in transitions per second."""

    peer: Peer
    version: str
    torch: str
    rates: dict[str, float]


def measure_peer(peer: Peer, arguments: Sequence[str]) -> PeerRates:
    """Install the peer if that is not done yet, and run its script.

    Raises:
        PeerUnavailable: if it could not be installed, or its script failed.
    """
    python = _environment(peer)
    command = [str(python), str(Path(__file__).parent / peer.script), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = json.loads(_run(command, _RUN_WITHIN_S, environment).splitlines()[-1])
    return PeerRates(peer=peer, version=result["version"], torch=result["torch"], rates=result["rates"])


def _environment(peer: Peer) -> Path:
    """Return the Python of the peer's environment; making it takes minutes, once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lwd" / "bench"
    directory = cache / peer.name
    python, done = directory / "bin" / "python", directory / "installed.json"
    wanted = json.dumps([peer.python, *peer.requirements])
    if done.exists() and done.read_text() == wanted:
        return python
    print(f"installing {peer.title} into {directory} (once; minutes)", flush=True)
    shutil.rmtree(directory, ignore_errors=True)
    _run([_interpreter(peer.python), "-m", "venv", str(directory)], _INSTALL_WITHIN_S)
    _run([str(python), "-m", "pip", "install", "--quiet", *peer.requirements], _INSTALL_WITHIN_S)
    done.write_text(wanted)
    return python


def _interpreter(version: str) -> str:
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    if found := shutil.which(f"python{version}"):
        return found
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=True).stdout.strip()
        if installed := sorted(Path(root).glob(f"versions/{version}.*/bin/python")):
            return str(installed[-1])
    raise PeerUnavailable(f"there is no Python {version} on this machine")


def _run(command: list[str], timeout_s: float, environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment, check=True)
    except subprocess.CalledProcessError as error:
        raise PeerUnavailable(f"{Path(command[0]).name} {command[1]} failed: {error.stderr[-300:].strip()}") from error
    except (subprocess.TimeoutExpired, OSError) as error:
        raise PeerUnavailable(f"{Path(command[0]).name} {command[1]}: {error}") from error
    return done.stdout
