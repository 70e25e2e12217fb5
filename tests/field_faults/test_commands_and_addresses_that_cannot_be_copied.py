"""Printed commands are quoted, and IPv6 addresses stand in brackets: what is printed works when it is copied."""

import io
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from lwd.cli.console_link import show_link
from lwd.cli.fleet_progress import watch_fleet
from lwd.cli.main import dispatch
from lwd.cli.options import console, next_step
from lwd.commands import host_port, lwd_command
from lwd.console.server import ConsoleConfig, _listen
from lwd.errors import ConfigError, PortInUse
from lwd.fleet.bus_config import BusConfig
from lwd.learner.rendezvous import exposure, private_address
from lwd.recipes.run_directory import RunDirectory

WORDS = ["my run", "it's", "$HOME", "`id`", 'a"b', "*", "plain"]


@pytest.mark.parametrize("name", WORDS)
def test_a_shell_reads_a_printed_command_as_it_was_meant(name):
    assert shlex.split(lwd_command("sft", "--run", Path(name))) == ["lwd", "sft", "--run", name]


@pytest.mark.parametrize("name", ["my run", "it's $HOME"])
@pytest.mark.parametrize("verb", ["offline", "up", "robot", "data list", "console"])
def test_the_commands_of_messages_name_a_run_of_any_name(name, verb, tmp_path, capsys):
    run = tmp_path / name
    run.mkdir()
    more = ["--host", "0.0.0.0", "--origin", "https://robots.example"] if verb == "console" else []
    assert dispatch([*verb.split(), "--run", str(run), *more]) in (1, 78)
    said = capsys.readouterr().err
    command = said.partition("`lwd ")[2].partition(f"--run {shlex.quote(str(run))}")
    assert command[1], said


def test_no_source_puts_a_path_into_a_command_by_hand():
    """One function makes printed commands; an f-string forgets the quotes."""
    source = Path(__file__).parents[2] / "src"
    found = [
        f"{path.name}:{number}"
        for path in source.rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if "lwd " in line and ("--run {" in line or "evaluate {" in line or "report {" in line)
    ]
    assert found == []


@pytest.mark.parametrize("host", ["::1", "[::1]", "127.0.0.1"])
@pytest.mark.parametrize("terminal", [True, False])
def test_the_consoles_address_opens_in_a_browser(host, terminal, tmp_path):
    config = ConsoleConfig(run=RunDirectory(tmp_path), host=host, port=8787)
    output = io.StringIO()
    show_link(tmp_path, 8787, Console(file=output, force_terminal=terminal), config.host)
    address = "127.0.0.1:8787" if host == "127.0.0.1" else "[::1]:8787"
    assert f"console: http://{address}" in output.getvalue()
    assert f"http://{address}" in config.allowed_origins


def test_a_link_for_another_address_is_printed_again(tmp_path, capsys):
    assert dispatch(["console", "link", "--run", str(tmp_path), "--host", "::1"]) == 0
    assert capsys.readouterr().out.startswith("http://[::1]:8787/#/link/")


def test_a_taken_port_of_ipv6_is_named_in_brackets():
    with _listen("::1", 0) as first:
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"\[::1\]:{port} cannot be listened on"):
            _listen("::1", port)


def test_a_bus_of_ipv6_is_taken_and_named_in_brackets():
    config = BusConfig(urls=("nats://[fd00::7]:4222", "tls://bus.example:4222"))
    assert (config.hosts, config.servers[0]) == ("[fd00::7]:4222, bus.example:4222", "nats://[fd00::7]:4222")
    with pytest.raises(ConfigError, match=r"write an IPv6 address in brackets, such as nats://\[::1\]:4222"):
        BusConfig(urls=("nats://fd00::7:4222",))


def test_a_rendezvous_of_ipv6_is_taken_and_named_in_brackets():
    assert private_address("[fd00::1]:29400") == ("fd00::1", 29400)
    assert "reaches [fd00::1]:29400," in exposure("fd00::1", 29400)
    # Is 29400 a port, or the end of the address? Nobody can tell.
    with pytest.raises(ConfigError, match=r"such as 10\.0\.0\.1:29400 or \[fd00::1\]:29400"):
        private_address("fd00::1:29400")


def test_other_hosts_have_no_brackets():
    assert host_port("127.0.0.1", 1) == "127.0.0.1:1"
    assert host_port("robots.example", 1) == "robots.example:1"


@pytest.mark.parametrize("say", [next_step, lambda text: console.print(text, soft_wrap=True)])
def test_square_brackets_are_printed_as_they_are(say, capsys):
    """Rich takes them for styles: `pip install '.[edge]'` lost its extra, runs/[a] its name."""
    command = lwd_command("report", "runs/[red]a[/red]/" + 100 * "long")
    say(f"{command} [edge,report]")
    assert f"{command} [edge,report]\n" in capsys.readouterr().out


def test_an_event_of_the_fleet_is_one_line(tmp_path, capsys):
    """A terminal wraps it itself, so that a path in it can be copied."""
    with watch_fleet(RunDirectory(tmp_path), 10) as say:
        say(f"host-0 cannot start: {100 * 'long'} [edge]")
    assert f"host-0 cannot start: {100 * 'long'} [edge]\n" in capsys.readouterr().err
