"""Values of what robots see now: a host sends views, a process of the console's values them, a browser gets them."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from lwd.batch import ObservationBatch
from lwd.console.accounts import Accounts
from lwd.console.app import AppConfig, create_app
from lwd.console.valuing import Valuer
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.embodiment import embodiment_json
from lwd.learner.checkpoint import CheckpointStore, Progress
from lwd.models.checkpoint import policy_bytes, value_bytes
from lwd.models.critic import CriticConfig, ValueCritic
from lwd.models.instruction import EMBEDDING_SIZE, InstructionEncoder
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.recipes.run_directory import RunDirectory

from ... import driven_fleet, point_mass
from ...served_console import open_link

TEXT = driven_fleet.TASK.instructions[0]
STATISTICS = StateStatistics(mean=(0.0,) * 6, std=(1.0,) * 6)
ORIGIN = "http://testserver"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory, server) -> Iterator[driven_fleet.DrivenFleet]:
    """Two robots at work, slowly, and an episode of one of them in the log."""
    run = tmp_path_factory.mktemp("run")
    with driven_fleet.driven_fleet(run, server, gain=0.2, robots=2) as fleet:
        fleet.path = run
        (run / "embodiment.json").write_bytes(embodiment_json(point_mass.EMBODIMENT))
        fleet.host().run(lambda: fleet.network.status.episodes > 0)
        assert fleet.finish()
        stop = threading.Event()
        thread = threading.Thread(target=fleet.host().run, args=(stop.is_set,))
        thread.start()
        try:
            yield fleet
        finally:
            stop.set()
            thread.join()


def save(directory: Path, stage: str, update: int, *, num_atoms: int = 11) -> ValueCritic:
    """Write a checkpoint; its networks follow from `update`."""
    torch.manual_seed(update)
    known = InstructionEncoder({TEXT: np.ones(EMBEDDING_SIZE, np.float32)})
    sizes = VLAConfig(horizon=3, token_width=4, context_size=8, expert_width=16, expert_depth=1)
    policy = SmallVLA(point_mass.EMBODIMENT, sizes, STATISTICS, known)
    config = CriticConfig(
        token_width=8, readout_size=16, action_width=8, pooling_heads=2, width=32, depth=2, num_atoms=num_atoms
    )
    critic = ValueCritic(point_mass.EMBODIMENT, config, STATISTICS, horizon=3).eval()
    CheckpointStore(directory / "checkpoints" / stage).save(
        Progress(stage=stage, update=update, snapshot=0, policy_version=0, finished=False),
        policy=policy_bytes(policy), value=value_bytes(critic), state={}, config={},
    )  # fmt: skip
    return critic


def mean_value(critic: ValueCritic, state: list[float]) -> float:
    observation = ObservationBatch(
        state_BS=torch.tensor([state], dtype=torch.float32), instruction_BE=torch.ones(1, EMBEDDING_SIZE)
    )
    with torch.inference_mode():
        probs, atoms = critic.value_probs(observation)
    return float((probs * atoms).sum())


def asked(state: list[float], embodiment: str = "point-mass") -> dict[str, object]:
    return {"embodiment": embodiment, "state": state, "instruction": TEXT}


def test_a_browser_gets_the_values_of_what_robots_see_now(fleet, server):
    critic = save(fleet.path, "offline", 7)
    config = AppConfig(
        run=RunDirectory(fleet.path), bus=lambda: BusConfig(urls=(server.url,)), origins=frozenset({ORIGIN}),
        accounts=Accounts(fleet.path / "none.json"),
    )  # fmt: skip
    with TestClient(create_app(config), base_url=ORIGIN) as client:
        open_link(client, fleet.path)
        offered = ["lwd.live", f"csrf.{client.headers['X-CSRF-Token']}"]
        with client.websocket_connect("/api/live", subprotocols=offered, headers={"origin": ORIGIN}) as socket:
            socket.send_json({"kind": "watch", "robots": ["robot-0"], "hz": 5})
            seen: list[dict[str, object]] = []
            deadline_s = time.monotonic() + 60
            while len({(each["episode_id"], each["step"]) for each in seen}) < 3:
                assert time.monotonic() < deadline_s
                message = socket.receive()
                if message.get("text") is None:
                    socket.send_json({"kind": "ack"})
                    continue
                now = client.get("/api/fleet").json()
                # Nobody watches the other one.
                assert [row["value"] for row in now["robots"] if row["robot_id"] == "robot-1"] == [None]
                seen += [row["value"] for row in now["robots"] if row["robot_id"] == "robot-0" and row["value"]]
            assert now["values"] == {"of": "offline, update 7", "note": ""}
    low, high = critic.config.value_low, critic.config.value_high
    values = [each["value"] for each in seen]
    assert all(low <= value <= high for value in values)
    assert len(set(values)) > 1
    until_unwatched(fleet)


def until_unwatched(fleet: driven_fleet.DrivenFleet) -> None:
    """Hosts send nothing that nobody wants."""
    deadline_s = time.monotonic() + 10
    while fleet.network.console.is_view_due("robot-0"):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


@pytest.mark.parametrize("num_atoms", [11, 1])
def test_a_value_is_the_mean_of_the_distribution_or_the_number_itself(fleet, tmp_path, num_atoms):
    critic = save(tmp_path, "online", 3, num_atoms=num_atoms)
    state = [0.1, 0.2, 0.0, 0.0, 1.0, 1.0]
    answer = valuer(fleet, tmp_path).answer([asked(state), asked(state, "other-arm"), asked(state[:3])])
    value, *others = answer["values"]
    assert others == [None, None]
    assert answer["of"] == "online, update 3"
    if num_atoms > 1:
        assert value == pytest.approx(mean_value(critic, state), abs=1e-6)
    assert np.isfinite(value)


def test_a_newer_checkpoint_is_noticed_and_a_damaged_one_leaves_the_old_in_use(fleet, tmp_path):
    now_s = [0.0]
    first = save(tmp_path, "offline", 1)
    asking = valuer(fleet, tmp_path, clock=lambda: now_s[0])
    state = [0.1, 0.2, 0.0, 0.0, 1.0, 1.0]
    before = asking.answer([asked(state)])
    assert before["values"] == [pytest.approx(mean_value(first, state), abs=1e-6)]
    second = save(tmp_path, "online", 5)
    assert asking.answer([asked(state)]) == before
    now_s[0] = 10.0
    after = asking.answer([asked(state)])
    assert (after["of"], after["note"]) == ("online, update 5", "")
    assert after["values"] == [pytest.approx(mean_value(second, state), abs=1e-6)]
    save(tmp_path, "online", 6)
    found = CheckpointStore(tmp_path / "checkpoints" / "online").newest_path()
    (found / "value.safetensors").write_bytes(b"damaged")
    now_s[0] = 20.0
    damaged = asking.answer([asked(state)])
    assert damaged["values"] == after["values"]
    assert "has sha256" in damaged["note"]


def test_a_network_that_diverged_has_no_values(fleet, tmp_path):
    save(tmp_path, "online", 3)
    asking = valuer(fleet, tmp_path)
    state = [0.1, 0.2, 0.0, 0.0, 1.0, 1.0]
    assert asking.answer([asked(state)])["values"] != [None]
    with torch.no_grad():
        asking._network.value_head[-1].bias.fill_(float("nan"))
    assert asking.answer([asked(state)])["values"] == [None]


def test_without_a_value_network_it_says_why(fleet, tmp_path):
    answer = valuer(fleet, tmp_path).answer([asked([0.0] * 6)])
    assert answer == {"values": [None], "of": "", "note": "no checkpoint of this run has a value network yet"}
    save(tmp_path, "offline", 1)
    camera = replace(point_mass.EMBODIMENT, cameras={"front": (8, 8)})
    (tmp_path / "embodiment.json").write_bytes(embodiment_json(camera))
    answer = valuer(fleet, tmp_path).answer([asked([0.0] * 6)])
    assert (answer["values"], answer["note"]) == (
        [None],
        "the value network looks at pictures, which are not sent for this",
    )


def valuer(fleet: driven_fleet.DrivenFleet, path: Path, **clock) -> Valuer:
    """Of a run with checkpoints of its own and the fleet's episodes."""
    if not (path / "store").exists():
        (path / "store").symlink_to(fleet.path / "store")
    if not (path / "embodiment.json").exists():
        (path / "embodiment.json").write_bytes(embodiment_json(point_mass.EMBODIMENT))
    return Valuer(RunDirectory(path), **clock)
