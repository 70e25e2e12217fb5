"""A host with robots that people can take over: `python -m tests.attacks.driven_host RUN`, until SIGTERM.

A process of its own: what is measured must not share an interpreter with it.
"""

import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

from lwd.fleet.nats_server import read_url

from .. import driven_fleet


def main(run: Path) -> None:
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    server = SimpleNamespace(url=read_url(run / "nats"))
    with driven_fleet.driven_fleet(run, server, gain=0.0, robots=4) as fleet:
        fleet.host().run(over.is_set)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
