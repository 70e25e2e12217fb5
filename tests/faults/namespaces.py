"""Two hosts of their own on one machine: network namespaces with one cable between them, which can be cut."""

import os
import shutil
import subprocess
from collections.abc import Sequence

import pytest


class TwoHosts:
    """A robot's and a server's namespace. What runs in them reaches each other and nothing else."""

    robot_address = "10.213.77.1"
    server_address = "10.213.77.2"

    def __init__(self) -> None:
        """Make the namespaces; skips the test where that is not possible."""
        self.robot, self.server = f"lwd-robot-{os.getpid()}", f"lwd-server-{os.getpid()}"
        if os.geteuid() != 0 or shutil.which("ip") is None:
            pytest.skip("network namespaces need root and the command `ip` (package iproute2)")
        made = subprocess.run(["ip", "netns", "add", self.robot], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            pytest.skip(f"no right to make a network namespace here: {made.stderr.strip()}")
        try:
            _ip("netns", "add", self.server)
            # The cable is made inside, so that nothing of it is ever seen outside.
            _ip(
                "-n", self.robot, "link", "add", "robot", "type", "veth", "peer", "name", "server", "netns", self.server
            )
            for namespace, name, address in (
                (self.robot, "robot", self.robot_address),
                (self.server, "server", self.server_address),
            ):
                _ip("-n", namespace, "address", "add", f"{address}/24", "dev", name)
                _ip("-n", namespace, "link", "set", "lo", "up")
                _ip("-n", namespace, "link", "set", name, "up")
        except BaseException:
            self.remove()
            raise

    def inside(self, namespace: str, command: Sequence[str]) -> list[str]:
        """Return the command that runs another one inside a namespace."""
        return ["ip", "netns", "exec", namespace, *command]

    def cut(self) -> None:
        """Pull the plug at the server: the robot's packets vanish, nobody tells it."""
        _ip("-n", self.server, "link", "set", "server", "down")

    def mend(self) -> None:
        """Put the plug in again."""
        _ip("-n", self.server, "link", "set", "server", "up")

    def remove(self) -> None:
        """Delete the namespaces and the cable with them. Their processes must have ended."""
        for namespace in (self.robot, self.server):
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
