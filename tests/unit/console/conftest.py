"""What the console's tests share."""

from collections.abc import Iterator

import pytest

from lwd.fleet.nats_server import NatsServer


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server
