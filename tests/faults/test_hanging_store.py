"""A store that accepts connections and never answers: episodes are safe on the disk all the same."""

import socket
import threading
import time

from lwd.data.store import StoreConfig, open_store
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.host_network import HostNetwork
from lwd.fleet.metrics_file import MetricsFile
from lwd.fleet.release import PolicyFollower
from lwd.fleet.shipper import Shipper
from lwd.fleet.spool import Spool

from .writers import tiny_episode

EPISODES = 5
PATIENCE_S = 20.0
"""Less than the timeout of a request: nothing may wait for the store's answer."""


class SilentServer:
    """Takes every connection and says nothing."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for connection in self.connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                self.connections.append(self._listener.accept()[0])
            except OSError:
                return


def test_episodes_reach_the_spool_while_an_upload_hangs(tmp_path):
    silent = SilentServer()
    options = {
        "endpoint": f"http://127.0.0.1:{silent.port}",
        "allow_http": "true",
        "region": "us-east-1",
        "access_key_id": "nobody",
        "secret_access_key": "nothing",
    }
    store = open_store(StoreConfig(url="s3://bucket/prefix", options=options))
    spool = Spool(tmp_path / "spool")
    spool.claim("robot")
    network = HostNetwork(
        host_id="host",
        bus=lambda: BusConfig(urls=("nats://127.0.0.1:1",)),  # nobody
        store=store,
        shipper=Shipper(store, spool, {"robot"}),
        policies=PolicyFollower(store, lambda data: data, max_loaded=1),
        metrics=MetricsFile(tmp_path, "host"),
        heartbeat_s=1.0,
    )
    try:
        for number in range(EPISODES):
            network.submit(tiny_episode("robot", number))
            # One by one: after the first of them an upload hangs.
            deadline_s = time.monotonic() + PATIENCE_S
            while len(spool.pending()) <= number:
                assert time.monotonic() < deadline_s, f"episode {number} is not in the spool"
                time.sleep(0.02)
            time.sleep(0.2)
        assert silent.connections
        assert network.waiting == EPISODES
    finally:
        silent.close()  # first: it ends the upload
        network.close()
        spool.close()
