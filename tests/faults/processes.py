"""Entry of the processes that the fault tests start:

python -m tests.faults.processes {coordinator | writer | servers} '<settings as JSON>'
"""

import json
import logging
import sys
from pathlib import Path

from lwd.data.store import StoreConfig
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.coordinator_process import CoordinatorConfig, run_coordinator

from .clock import set_clock
from .server_host import run_server_host
from .writers import WriterConfig, run_writer

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", force=True)
    role, settings = sys.argv[1], json.loads(sys.argv[2])
    set_clock(settings.pop("clock", ()))
    if role == "coordinator":
        store, bus = StoreConfig(url=settings["store_url"]), BusConfig(urls=(settings["nats_url"],))
        run_coordinator(CoordinatorConfig(run=Path(settings["run"]), store=store, bus=bus))
    elif role == "servers":
        run_server_host(settings)
    else:
        run_writer(WriterConfig(**settings))
