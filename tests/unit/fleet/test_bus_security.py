"""A bus elsewhere: real nats-servers with TLS, JWT credentials, mutual TLS, and a cluster of three."""

import asyncio
import logging
import time
from pathlib import Path

import pytest

from lwd.data.policies import policy_key
from lwd.errors import BusRefused, ConfigError, ServiceError
from lwd.fleet.bus import Bus
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.messages import PolicyPointer
from lwd.fleet.rights import rights_of

from ...nats_servers import HOST, Certificates, ExternalServer, Identity, Realm, free_ports
from .test_bus import announcement, names

POINTER = PolicyPointer(version=4, key=policy_key(4), sha256="0" * 64, update=9, snapshot=2, published_at_s=1.0)


@pytest.fixture(scope="module")
def realm() -> Realm:
    return Realm()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(tmp_path_factory, realm, certificates):
    """As docs/data-plane.md advises: TLS and credentials."""
    directory = tmp_path_factory.mktemp("nats")
    with ExternalServer(directory, f"{certificates.config()}\n{realm.config}") as server:
        yield server


def tls(*servers: ExternalServer, **settings) -> BusConfig:
    return BusConfig(urls=tuple(f"tls://{HOST}:{server.port}" for server in servers), **settings)


def connect(config: BusConfig, timeout_s: float = 30.0) -> None:
    async def check() -> None:
        await (await Bus.connect(config, name="test", timeout_s=timeout_s)).close()

    asyncio.run(check())


async def use(bus: Bus, number: int) -> None:
    """Everything that a fleet does with its bus."""
    await bus.announce(announcement(number))
    assert await names(bus) == [f"e{number}"]
    await bus.set_policy_pointer(POINTER)
    assert await bus.get_policy_pointer() == POINTER


def test_everything_works_with_tls_and_credentials(server, realm, certificates, tmp_path):
    config = tls(server, ca=certificates.ca, credentials=realm.credentials(tmp_path / "robot.creds"))

    async def check() -> None:
        bus = await Bus.connect(config, name="test")
        await use(bus, 1)
        await bus.close()

    asyncio.run(check())


def test_a_robots_user_needs_few_permissions(server, realm, certificates, tmp_path):
    """What `lwd bus rights` prints: it may announce and hear, and neither make nor delete streams."""
    rights = rights_of("robot", "robot", robots=["host.robot-1"])
    robot = realm.credentials(tmp_path / "robot.creds", **rights.as_claims())
    everything = tls(server, ca=certificates.ca, credentials=realm.credentials(tmp_path / "coordinator.creds"))

    async def check() -> None:
        coordinator = await Bus.connect(everything, name="coordinator")
        await coordinator.fetch_announcements(1, 0.1)
        await coordinator.set_policy_pointer(POINTER)
        bus = await Bus.connect(tls(server, ca=certificates.ca, credentials=robot), name="robot")
        await bus.announce(announcement(7))
        assert await names(coordinator) == ["e7"]
        assert await bus.get_policy_pointer() == POINTER
        with pytest.raises(ServiceError):
            await bus.set_policy_pointer(POINTER)
        await bus.close()
        await coordinator.close()

    asyncio.run(check())


def test_a_stranger_is_refused_at_once(server, realm, certificates, tmp_path, caplog):
    """Credentials of an account that the servers do not know."""
    stranger = realm.credentials(tmp_path / "stranger.creds", account=Identity("account"))
    started_s = time.monotonic()
    with caplog.at_level(logging.DEBUG), pytest.raises(BusRefused, match=r"stranger.creds is not accepted") as refused:
        connect(tls(server, ca=certificates.ca, credentials=stranger))
    assert time.monotonic() - started_s < 15
    for secret in stranger.read_text().splitlines()[1::4]:
        assert len(secret) > 40
        assert secret not in caplog.text + str(refused.value)


def test_without_credentials_it_says_that_they_are_wanted(server, certificates):
    with pytest.raises(BusRefused, match=r"wants credentials.*--nats-credentials"):
        connect(tls(server, ca=certificates.ca))


def test_credentials_that_expire_are_told(server, realm, certificates, tmp_path):
    """The server ends the connection; connecting again says why, and new credentials in the same file work."""
    path = tmp_path / "robot.creds"
    user = Identity("user")
    short = realm.account.jwt(user, "short", {"subs": -1, "data": -1, "payload": -1}, expires_s=2)
    realm.credentials(path)
    lines = path.read_text().splitlines()
    lines[1], lines[5] = short, user.seed.decode()
    config = tls(server, ca=certificates.ca, credentials=path)

    async def check() -> None:
        path.write_text("\n".join(lines))
        bus = await Bus.connect(config, name="test")
        deadline_s = time.monotonic() + 30
        while not bus.closed:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.05)
        # The server may still take them within the very second in which they end.
        await asyncio.sleep(1.5)
        with pytest.raises(BusRefused, match="is not accepted"):
            await Bus.connect(config, name="test")
        realm.credentials(path)
        await (await Bus.connect(config, name="test")).close()

    asyncio.run(check())


def test_a_wrong_authority_is_named(server, realm, tmp_path):
    other = Certificates.make(tmp_path / "other")
    with pytest.raises(BusRefused, match=r"is not trusted \(.*\): give its authority with --nats-ca"):
        connect(tls(server, ca=other.ca, credentials=realm.credentials(tmp_path / "robot.creds")))


def test_a_certificate_for_another_name_is_refused(tmp_path):
    other = Certificates.make(tmp_path / "other", name="elsewhere.example.com")
    with (
        ExternalServer(tmp_path / "nats", other.config()) as server,
        pytest.raises(BusRefused, match="is not trusted"),
    ):
        connect(tls(server, ca=other.ca))


def test_mutual_tls(tmp_path, certificates):
    with ExternalServer(tmp_path / "nats", certificates.config(verify=True)) as server:
        connect(tls(server, ca=certificates.ca, certificate=certificates.client, key=certificates.client))
        with pytest.raises(ServiceError):
            connect(tls(server, ca=certificates.ca), timeout_s=5.0)


def test_a_server_without_tls_is_not_used_in_the_clear(tmp_path, certificates):
    with ExternalServer(tmp_path / "nats") as server:
        connect(BusConfig(urls=(f"nats://{HOST}:{server.port}",)))
        with pytest.raises(BusRefused, match="offers no TLS"):
            connect(tls(server, ca=certificates.ca))


def test_files_are_checked_before_connecting(tmp_path, certificates):
    missing, rubbish = tmp_path / "missing", tmp_path / "rubbish"
    rubbish.write_text("-----BEGIN USER NKEY SEED-----\nhunter2\n")
    url = ("tls://127.0.0.1:1",)
    for settings, message in [
        ({"credentials": missing}, "nats_credentials .*missing cannot be read"),
        ({"credentials": rubbish}, "nats_credentials .*rubbish is no .creds file"),
        ({"ca": missing}, "nats_ca .*missing"),
        ({"ca": rubbish}, "nats_ca .*rubbish is no PEM"),
        ({"certificate": certificates.client, "key": missing}, "nats_key .*missing"),
    ]:
        with pytest.raises(ConfigError, match=message) as refused:
            connect(BusConfig(urls=url, **settings))
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"urls": ()}, "nats_url is empty"),
        ({"urls": ("http://host:1",)}, "no nats://HOST:PORT"),
        ({"urls": ("nats://hunter2@host:port",)}, "'nats://host:port' is no URL"),
        ({"urls": ("nats://",)}, "no nats://HOST:PORT"),
        ({"urls": ("nats://h",), "key": Path("k")}, "belong together"),
        ({"urls": ("nats://h",), "replicas": 2}, "nats_replicas is 2"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message) as refused:
        BusConfig(**settings)
    assert "hunter2" not in str(refused.value)


def test_a_token_is_never_shown():
    config = BusConfig(urls=("nats://hunter2@host:4222", "nats://me:hunter2@other:4222"))
    assert config.holds_secret
    assert config.hosts == "host:4222, other:4222"
    assert "hunter2" not in f"{config} {config!r}"


def test_a_cluster_loses_a_server_and_nothing_else(tmp_path):
    """Three servers, three copies: whichever is killed, announcements and the policy pointer are there."""
    free = free_ports(6)
    ports, routes = free[:3], free[3:]
    known = ", ".join(f"nats://{HOST}:{route}" for route in routes)
    servers = [
        ExternalServer(
            tmp_path / f"n{number}",
            f'server_name: n{number}\ncluster {{ name: c, listen: "{HOST}:{route}", routes: [{known}] }}',
            port=port,
        )
        for number, (port, route) in enumerate(zip(ports, routes, strict=True))
    ]
    config = BusConfig(urls=tuple(f"nats://{HOST}:{port}" for port in ports), replicas=3)

    async def patiently(call):
        """Until leaders are chosen."""
        deadline_s = time.monotonic() + 90
        while True:
            try:
                return await call()
            except ServiceError:
                assert time.monotonic() < deadline_s
                await asyncio.sleep(0.1)

    async def check() -> None:
        bus = await Bus.connect(config, name="test")
        await patiently(lambda: bus.fetch_announcements(1, 0.1))
        await patiently(lambda: bus.set_policy_pointer(POINTER))
        await patiently(lambda: bus.announce(announcement(1)))
        info = await bus._jetstream.stream_info("LWD_EPISODES")
        assert info.config.num_replicas == 3
        leader = next(server for number, server in enumerate(servers) if info.cluster.leader == f"n{number}")
        leader.kill()
        await patiently(lambda: bus.announce(announcement(2)))
        found: list[str] = []
        while len(found) < 2:
            found += await patiently(lambda: names(bus))
        assert sorted(found) == ["e1", "e2"]
        assert await patiently(bus.get_policy_pointer) == POINTER
        await bus.close()

    try:
        for server in servers:
            server.start()
        asyncio.run(check())
    finally:
        for server in servers:
            server.close()
