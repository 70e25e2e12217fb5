"""The verbs against services that somebody else runs: S3, and NATS with TLS, credentials and few permissions."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from lwd.data.log import LogReader
from lwd.data.policies import PolicyPublisher
from lwd.data.store import open_store
from lwd.data.validation import EpisodeLimits
from lwd.fleet.ingest import ingest
from lwd.models.checkpoint import policy_bytes
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.robots.sim.embodiments import STATE_EMBODIMENT

from ..nats_servers import HOST, Certificates, ExternalServer, Realm
from ..unit.data.episodes import episode
from .servers import environment

pytestmark = pytest.mark.faults

EPISODES = 3
ROBOT_MAY = {
    "pub": {
        "allow": [
            *("lwd.episodes.arm_1", "lwd.heartbeat.host.>"),
            *("$JS.API.STREAM.INFO.KV_lwd", "$JS.API.STREAM.MSG.GET.KV_lwd"),
        ]
    },
    "sub": {"allow": ["lwd.>", "_INBOX.>"]},
}


def test_a_coordinator_and_a_robot_find_the_services_that_were_given_once(seaweed, tmp_path):
    realm, certificates = Realm(), Certificates.make(tmp_path / "certificates")
    everything = realm.credentials(tmp_path / "coordinator.creds")
    robot_only = realm.credentials(tmp_path / "robot.creds", **ROBOT_MAY)
    config = seaweed.store_config("elsewhere")
    store = open_store(config)
    size = STATE_EMBODIMENT.state_size
    policy = SmallVLA(STATE_EMBODIMENT, VLAConfig(), StateStatistics(mean=(0.0,) * size, std=(1.0,) * size))
    PolicyPublisher(store).publish(policy_bytes(policy), update=0, snapshot=0)
    # A run begins with offline data: its first episode says which embodiment the fleet is of.
    seen = np.zeros((5, size), np.float32)
    recorded = episode(0, steps=4, episode_id="recorded", embodiment=STATE_EMBODIMENT.name, control_hz=20.0)
    width = (4, STATE_EMBODIMENT.action_size)
    ingest(store, [replace(recorded, states_TS=seen, actions_TA=np.zeros(width, np.float32))], EpisodeLimits())
    secrets = {name: seaweed.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    ours = {**os.environ, **environment(**secrets)}
    store_options = [f"{name}={config.options[name]}" for name in ("endpoint", "region", "allow_http")]

    def start(verb: str, *options: object) -> subprocess.Popen:
        command = [sys.executable, "-m", "lwd", verb, *map(str, options)]
        with (tmp_path / f"{verb}.log").open("ab") as log:
            return subprocess.Popen(command, env=ours, cwd=tmp_path, stdout=log, stderr=log)

    def places(credentials: object) -> list[object]:
        return [
            *("--store", config.url, "--store-option", *store_options),
            *("--nats-url", f"tls://{HOST}:{server.port}", "--nats-credentials", credentials),
            *("--nats-ca", certificates.ca),
        ]

    with ExternalServer(tmp_path / "nats", f"{certificates.config()}\n{realm.config}") as server:
        coordinator = start("coordinator", "--run", tmp_path / "run", *places(everything))
        # Its own run directory, as on another machine.
        robot = tmp_path / "robot"
        try:
            first = start("robot", "--run", robot, "--robots", "arm.1", "--max-episodes", 1, *places(robot_only))
            assert first.wait(timeout=120) == 0, (tmp_path / "robot.log").read_text()
            # Started again without a word about services: RUN/run.json has them, and no secret.
            server.kill()
            server.start()
            second = start("robot", "--run", robot, "--robots", "arm.1", "--max-episodes", EPISODES - 1)
            assert second.wait(timeout=180) == 0, (tmp_path / "robot.log").read_text()
            reader, until_s = LogReader(store), time.monotonic() + 60
            while len(reader) < EPISODES + 1:
                assert time.monotonic() < until_s, (tmp_path / "coordinator.log").read_text()
                reader.poll()
                time.sleep(0.1)
        finally:
            coordinator.send_signal(signal.SIGTERM)
            coordinator.wait(timeout=60)
    noted = (robot / "run.json").read_text()
    assert str(robot_only) in noted
    for secret in secrets.values():
        assert secret not in noted
    assert {episode.entry.robot_id for episode in reader.snapshot.episodes.values()} == {"arm.1", "robot-1"}
