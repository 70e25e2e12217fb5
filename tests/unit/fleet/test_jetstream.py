"""Stream, consumer and bucket: made by whoever comes first, brought to our settings, or refused by name."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, RetentionPolicy, StorageType, StreamConfig

from lwd.errors import ServiceError
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.bus_connection import connect
from lwd.fleet.jetstream import ACK_WAIT_S, CONSUMER, KEEP_S, STREAM, ensure_bucket, ensure_consumer, ensure_stream
from lwd.fleet.nats_server import NatsServer


@pytest.fixture
def server(tmp_path):
    with NatsServer(tmp_path / "nats") as server:
        yield server


def with_jetstream(server: NatsServer, check: Callable[[JetStreamContext], Awaitable[None]]) -> None:
    async def run() -> None:
        client = await connect(BusConfig(urls=(server.url,)), "test", 20.0)
        await check(client.jetstream())
        await client.close()

    asyncio.run(run())


async def ensure_all(jetstream: JetStreamContext) -> None:
    await ensure_stream(jetstream, None)
    await ensure_consumer(jetstream)
    await ensure_bucket(jetstream, None)


def test_many_processes_create_everything_at_once(server):
    async def check(_: JetStreamContext) -> None:
        clients = [await connect(BusConfig(urls=(server.url,)), "test", 20.0) for _ in range(8)]
        await asyncio.gather(*(ensure_all(client.jetstream()) for client in clients))
        stream = await clients[0].jetstream().stream_info(STREAM)
        assert stream.state.consumer_count == 1
        assert (stream.config.retention, stream.config.storage) == (RetentionPolicy.WORK_QUEUE, StorageType.FILE)
        assert (await clients[0].jetstream().consumer_info(STREAM, CONSUMER)).config.ack_wait == ACK_WAIT_S
        for client in clients:
            await client.close()

    with_jetstream(server, check)


def test_another_versions_settings_are_brought_to_ours(server):
    async def check(jetstream: JetStreamContext) -> None:
        await ensure_all(jetstream)
        config = (await jetstream.stream_info(STREAM)).config
        await jetstream.update_stream(replace(config, max_age=3600.0, subjects=["lwd.episodes.>", "lwd.other"]))
        await jetstream.add_consumer(
            STREAM, ConsumerConfig(durable_name=CONSUMER, ack_wait=300.0, filter_subject="lwd.episodes.>")
        )
        await ensure_all(jetstream)
        config = (await jetstream.stream_info(STREAM)).config
        assert (config.max_age, config.subjects) == (KEEP_S, ["lwd.episodes.>"])
        assert (await jetstream.consumer_info(STREAM, CONSUMER)).config.ack_wait == ACK_WAIT_S

    with_jetstream(server, check)


def test_what_cannot_be_changed_is_named(server):
    async def check(jetstream: JetStreamContext) -> None:
        await jetstream.add_stream(
            StreamConfig(name=STREAM, subjects=["lwd.episodes.>"], retention=RetentionPolicy.LIMITS)
        )
        with pytest.raises(ServiceError, match=f"stream {STREAM} has retention limits, it must be workqueue: delete"):
            await ensure_stream(jetstream, None)
        await jetstream.delete_stream(STREAM)
        await ensure_stream(jetstream, None)

    with_jetstream(server, check)


def test_more_replicas_than_servers_are_refused_by_name(server):
    async def check(jetstream: JetStreamContext) -> None:
        await ensure_stream(jetstream, None)
        with pytest.raises(ServiceError, match=f"NATS does not set num_replicas of stream {STREAM}"):
            await ensure_stream(jetstream, 3)

    with_jetstream(server, check)


def test_a_strangers_consumer_is_explained(server):
    """A work queue has one consumer; a second one would take its messages."""

    async def check(jetstream: JetStreamContext) -> None:
        await ensure_stream(jetstream, None)
        await jetstream.add_consumer(
            STREAM, ConsumerConfig(durable_name="stranger", filter_subject="lwd.episodes.>", ack_policy="explicit")
        )
        with pytest.raises(ServiceError, match="NATS refuses consumer 'coordinator'"):
            await ensure_consumer(jetstream)

    with_jetstream(server, check)
