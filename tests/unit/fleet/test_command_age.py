"""Which commands move a robot whose sender saw it long ago: those that hold it."""

import pytest

from lwd.errors import ControlRefused
from lwd.fleet.command_age import FRESH_S, require_fresh
from lwd.fleet.messages import ControlCommand

NOW_S = 500.0
HOLD = ("take", "pause", "abandon", "success", "failure", "discard", "undo", "keep")
MOVE = ("resume", "drive", "jog", "release")


def command(verb: str, seen_s: float) -> ControlCommand:
    return ControlCommand(robot_id="r", verb=verb, operator_id="ada", client_id="tab", lease=1, seen_s=seen_s)


@pytest.mark.parametrize("verb", HOLD)
@pytest.mark.parametrize("seen_s", [0.0, 1.0, NOW_S - 0.1, NOW_S + 100])
def test_what_holds_a_robot_is_obeyed_however_late(verb: str, seen_s: float) -> None:
    require_fresh(command(verb, seen_s), NOW_S)


@pytest.mark.parametrize("verb", MOVE)
def test_what_moves_a_robot_must_be_new(verb: str) -> None:
    require_fresh(command(verb, NOW_S - FRESH_S + 0.01), NOW_S)
    with pytest.raises(ControlRefused, match=rf"{verb} came late: its sender saw the robot 5\.0 s ago"):
        require_fresh(command(verb, NOW_S - 5), NOW_S)
    with pytest.raises(ControlRefused, match="by the clock of another start"):
        require_fresh(command(verb, NOW_S + 5), NOW_S)


@pytest.mark.parametrize("verb", MOVE)
def test_a_sender_that_does_not_say_what_it_saw_can_hand_back_and_move_nothing(verb: str) -> None:
    if verb == "release":
        require_fresh(command(verb, 0.0), NOW_S)
        return
    with pytest.raises(ControlRefused, match="use the same lwd at console, desk and robot"):
        require_fresh(command(verb, 0.0), NOW_S)


def test_every_verb_is_in_one_of_the_two_kinds() -> None:
    verbs = ControlCommand.model_fields["verb"].annotation.__args__
    assert set(HOLD) | set(MOVE) <= set(verbs)
    assert not set(verbs) - set(HOLD) - set(MOVE), "say in command_age.py what an old one does"
