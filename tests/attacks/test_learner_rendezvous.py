"""How learner processes find each other, against somebody who wants to get in there."""

import ast
import base64
import os
import pickle
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from lwd.errors import ConfigError
from lwd.learner import rendezvous
from lwd.learner.parallel import group_from_environment
from lwd.learner.rendezvous import VARIABLE, Member, private_address, private_directory, require_private

from ..group import start_group
from ..listening import listening
from ..nats_servers import free_port

SOURCE = Path(rendezvous.__file__).parents[1]
UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
OBJECTS = ("broadcast_object_list", "all_gather_object", "gather_object", "scatter_object_list", "recv_object_list")
ELASTIC = ("torch.distributed.elastic", "torch.distributed.run", "torch.distributed.launcher", "torch.distributed.rpc")


def test_learner_rendezvous_nothing_of_ours_unpickles():
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if (
                any(module.partition(".")[0] in UNPICKLING or module.startswith(ELASTIC) for module in modules)
                or name.rpartition(".")[2] in OBJECTS
                or name == "torch.load"
            ):
                found.append(f"{path.name}:{node.lineno}")
    assert found == []


@pytest.mark.parametrize(
    "variables", [{"TORCHELASTIC_RUN_ID": "none"}, {"WORLD_SIZE": "2", "RANK": "0"}, {"WORLD_SIZE": "8"}]
)
def test_learner_rendezvous_torchrun_is_refused(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="start `lwd learner --processes N` instead"), group_from_environment("cpu"):
        pass


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("0.0.0.0:29400", "is of every interface"),
        ("[::]:29400", "is of every interface"),
        ("8.8.8.8:29400", "is of no private network"),
        ("[2001:4860:4860::8888]:29400", "is of no private network"),
        ("[::ffff:8.8.8.8]:29400", "is of no private network"),
        ("100.64.0.1:29400", "is of no private network"),
        ("224.0.0.1:29400", "is of no private network"),
        ("169.254.1.1:29400", "is of no private network"),
        ("127.1:29400", "give ADDRESS:PORT"),
        ("learner.example:29400", "give ADDRESS:PORT"),
        ("localhost:29400", "give ADDRESS:PORT"),
        ("10.0.0.1", "give ADDRESS:PORT"),
        ("10.0.0.1:0", "give ADDRESS:PORT"),
        ("10.0.0.1:65536", "give ADDRESS:PORT"),
        ("10.0.0.1:²", "give ADDRESS:PORT"),
    ],
)
def test_learner_rendezvous_refuses_what_others_reach(address, reason):
    with pytest.raises(ConfigError, match=reason):
        private_address(address)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "10.1.2.3:29400", "172.31.0.1:29400", "[fd00::1]:29400"])
def test_learner_rendezvous_takes_private_addresses(address):
    host, port = private_address(address)
    assert address.replace("[", "").replace("]", "") == f"{host}:{port}"


@pytest.mark.parametrize(
    "content",
    [
        "{",
        '{"rank": 0, "size": 2, "local_rank": 0}',
        '{"rank": 2, "size": 2, "local_rank": 0, "directory": "/tmp"}',
        '{"rank": 0, "size": 2, "local_rank": 0, "address": "10.0.0.1"}',
        '{"rank": 0, "size": 2, "local_rank": 0, "directory": "/tmp", "address": "10.0.0.1", "port": 1}',
        '{"rank": 0, "size": 2, "local_rank": 0, "directory": "/tmp", "more": 1}',
    ],
)
def test_learner_rendezvous_refuses_a_damaged_place(content, monkeypatch):
    monkeypatch.setenv(VARIABLE, content)
    with pytest.raises(ConfigError, match=f"{VARIABLE} is set to something"), group_from_environment("cpu"):
        pass


def test_learner_rendezvous_directory_is_private_and_removed(tmp_path):
    with private_directory() as directory:
        assert directory.stat().st_mode & 0o777 == 0o700
        (directory / "store").write_bytes(b"")
        with private_directory() as other:
            assert other != directory
    assert not directory.exists()


def test_learner_rendezvous_directory_that_others_can_enter_is_refused(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o700)
    require_private(mine)
    (tmp_path / "link").symlink_to(mine)
    with pytest.raises(ConfigError, match="is no directory that user"):
        require_private(tmp_path / "link")
    mine.chmod(0o750)
    with pytest.raises(ConfigError, match="is no directory that user"):
        require_private(mine)
    with pytest.raises(ConfigError, match="cannot be looked at"):
        require_private(tmp_path / "gone")
    mine.chmod(0o700)
    tmp_path.chmod(0o777)  # without the sticky bit: anybody may put another directory in its place
    with pytest.raises(ConfigError, match="other users can replace what is in"):
        require_private(mine)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a directory to somebody else")
def test_learner_rendezvous_directory_of_somebody_else_is_refused(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, 65534, 65534)
    with pytest.raises(ConfigError, match="owner 65534"):
        require_private(theirs)


# ---- running groups ------------------------------------------------------------------------------------------------


def payload(witness: Path) -> bytes:
    """What runs a command where it is unpickled."""

    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {witness}",)

    return pickle.dumps(Attack())


def wait_for(path: Path, processes) -> None:
    deadline_s = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline_s
        assert all(process.poll() is None for process in processes), [p.communicate() for p in processes]
        time.sleep(0.1)


def answers_as_a_store(port: int) -> bool:
    """Whether a client of torch's key-value store is let in; in a process of its own, as it may wait for ever."""
    code = (
        "import sys; from datetime import timedelta; from torch.distributed import TCPStore; "
        "TCPStore('127.0.0.1', int(sys.argv[1]), is_master=False, wait_for_workers=False, timeout=timedelta(seconds=3))"
        ".set('key', 'value')"
    )
    try:
        return subprocess.run([sys.executable, "-c", code, str(port)], timeout=20, capture_output=True).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def test_learner_rendezvous_store_would_answer():
    """Guards the test below."""
    served = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    assert answers_as_a_store(served.port)


@pytest.mark.attacks
def test_learner_rendezvous_of_one_machine_serves_no_store(tmp_path, measured):
    """No anonymous connection to a key-value store can exist: each port that is open speaks another protocol."""
    processes = start_group("idle", tmp_path)
    try:
        for rank in range(2):
            wait_for(tmp_path / f"joined-{rank}", processes)
        found = [item for process in processes for item in listening(process.pid)]
        assert found
        assert all(address.is_loopback for _, address, _ in found), found
        assert not any(answers_as_a_store(port) for _, _, port in found)
        (tmp_path / "go").touch()
        assert [process.wait(timeout=60) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    measured("lwd learner --processes 2: key-value stores that answer", f"0 of {len(found)} ports", "0")


@pytest.mark.attacks
def test_learner_rendezvous_of_several_machines_runs_nothing_that_it_is_sent(tmp_path, measured):
    """Anonymous writes into the store that rank 0 serves: pickled commands under every key, ours and torchrun's."""
    port, witness = free_port(), tmp_path / "ran"
    processes = start_group("idle", tmp_path, address="127.0.0.1", port=port)
    try:
        for rank in range(2):
            wait_for(tmp_path / f"joined-{rank}", processes)
        found = [item for process in processes for item in listening(process.pid)]
        assert all(address.is_loopback for _, address, _ in found), found
        assert port in [number for _, _, number in found]
        intruder = TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=5))
        command = payload(witness)
        keys = [
            "torch.rendezvous.none",
            "torch.rendezvous.None",
            "torchelastic/x",
            "worker_state",
            *intruder.list_keys(),
        ]
        for key in keys:
            for value in (command, base64.b64encode(command)):
                intruder.set(key, value)
        (tmp_path / "go").touch()
        for process in processes:
            process.communicate(timeout=120)  # trained on, or ended with an error
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert not witness.exists()
    measured("pickled commands in the store of several machines", f"0 of {2 * len(keys)} ran", "0")


@pytest.mark.attacks
def test_learner_rendezvous_torchrun_ends_at_once(tmp_path, measured):
    """The command that was documented once: its agent opens stores on all interfaces."""
    command = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=0")
    result = subprocess.run(
        [sys.executable, *command, "-m", "--", "lwd", "learner", "--run", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert result.returncode != 0
    assert "start `lwd learner --processes N` instead" in result.stderr
    measured("torchrun lwd learner", "refused", "refused")


def test_learner_rendezvous_place_needs_no_secret():
    """What a process finds in its environment: places only."""
    member = Member(rank=0, size=2, local_rank=0, directory=Path("/tmp/x"))
    assert Member.model_validate_json(member.variables[VARIABLE]) == member
