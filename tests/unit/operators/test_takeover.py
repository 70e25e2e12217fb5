"""Lease, phases and dead-man's switch of one robot, on a clock that the test moves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lwd.driving import Driving, drive_axis, relative_driving
from lwd.errors import ConfigError, ControlRefused
from lwd.operators.help import StuckRule
from lwd.operators.remote import SCRIPTED, RemoteOperator
from lwd.operators.takeover import ABANDONED_S, DEAD_MAN_S, FIRST_COMMAND_S, UNDO_S, Label, Phase, Takeover
from lwd.robots.sim import make_robot
from lwd.types import OBSERVE, Command, Intent, Observation, Outcome, RobotView

from ...point_mass import EMBODIMENT, TASKS

RELATIVE = relative_driving(EMBODIMENT)
LEFT = np.array([-1.0, 0.0], np.float32)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def takeover(clock) -> Takeover:
    return Takeover(RELATIVE, clock=clock)


def driven(takeover: Takeover) -> int:
    """Take the robot over as Ada and begin to drive."""
    number = takeover.take("ada", "tab-1").number
    takeover.resume(number)
    takeover.drive(number, 1, LEFT)
    return number


def test_a_robot_goes_from_its_policy_to_a_hold_to_a_human_and_back(takeover):
    assert takeover.next(view_at(0)) is None
    lease = takeover.take("ada", "tab-1")
    assert takeover.phase is Phase.PAUSED
    assert takeover.next(view_at(0)).intent is Intent.HOLD
    takeover.resume(lease.number)
    assert takeover.next(view_at(0)).intent is Intent.HOLD  # nothing was commanded yet
    takeover.drive(lease.number, 1, LEFT)
    command = takeover.next(view_at(0))
    assert (command.intent, command.operator_id) == (Intent.TAKE_OVER, "ada")
    np.testing.assert_array_equal(command.action, LEFT)
    takeover.release(lease.number)
    assert takeover.next(view_at(0)) is None
    assert takeover.lease is None


def test_hands_off_the_keys_is_no_step(takeover):
    number = driven(takeover)
    takeover.drive(number, 2, np.zeros(2, np.float32))
    assert takeover.phase is Phase.HUMAN
    assert takeover.next(view_at(0)).intent is Intent.HOLD


def test_a_second_operator_is_told_who_holds_the_lease(takeover):
    driven(takeover)
    with pytest.raises(ControlRefused, match="ada controls this robot"):
        takeover.take("bob", "tab-2")
    with pytest.raises(ControlRefused, match="ada controls this robot"):
        takeover.take("ada", "her other tab")
    assert takeover.take("ada", "tab-1").number == 1  # asking again is harmless


def test_without_a_command_the_robot_holds_and_goes_on_only_when_told(takeover, clock):
    number = driven(takeover)
    clock.now_s += DEAD_MAN_S - 0.001
    assert takeover.next(view_at(0)).intent is Intent.TAKE_OVER
    clock.now_s += 0.002
    assert takeover.next(view_at(0)).intent is Intent.HOLD
    assert (takeover.phase, takeover.reason) == (Phase.PAUSED, "no command for 200 ms")
    takeover.drive(number, 2, LEFT)
    assert takeover.next(view_at(0)).intent is Intent.HOLD
    takeover.resume(number)
    assert takeover.next(view_at(0)).intent is Intent.HOLD  # the old action is forgotten
    takeover.drive(number, 3, LEFT)
    assert takeover.next(view_at(0)).intent is Intent.TAKE_OVER


def test_a_driver_who_never_begins_is_not_waited_for_for_ever(takeover, clock):
    takeover.resume(takeover.take("ada", "tab-1").number)
    clock.now_s += FIRST_COMMAND_S - 0.1
    assert (takeover.next(view_at(0)).intent, takeover.phase) == (Intent.HOLD, Phase.HUMAN)
    clock.now_s += 0.2
    assert (takeover.next(view_at(0)).intent, takeover.phase) == (Intent.HOLD, Phase.PAUSED)


def test_a_late_command_never_replaces_a_newer_one(takeover):
    number = driven(takeover)
    takeover.drive(number, 7, -LEFT)
    takeover.drive(number, 6, LEFT)
    np.testing.assert_array_equal(takeover.next(view_at(0)).action, -LEFT)


def test_commands_under_an_old_lease_are_refused(takeover):
    number = driven(takeover)
    takeover.release(number)
    second = takeover.take("bob", "tab-2").number
    assert second > number
    for call in (
        lambda: takeover.drive(number, 9, LEFT),
        lambda: takeover.resume(number),
        lambda: takeover.release(number),
        lambda: takeover.end(number, Label(outcome=None)),
    ):
        with pytest.raises(ControlRefused, match=f"lease {number} has ended"):
            call()
    assert takeover.lease.operator_id == "bob"


@pytest.mark.parametrize("action", [[np.nan, 0], [np.inf, 0], [0, 0, 0], []])
def test_a_malformed_action_is_refused_and_the_robot_holds(takeover, action):
    number = driven(takeover)
    with pytest.raises(ControlRefused, match="send 2 finite numbers"):
        takeover.drive(number, 2, np.array(action, np.float32))
    assert takeover.next(view_at(0)).intent is Intent.HOLD


def test_an_operator_who_is_gone_leaves_a_robot_that_holds_and_that_others_may_take(takeover, clock):
    number = driven(takeover)
    for _ in range(3):  # signs of life keep the lease
        clock.now_s += ABANDONED_S - 1
        takeover.keep(number)
    takeover.abandon("another tab")
    assert takeover.lease is not None
    clock.now_s += ABANDONED_S + 1
    assert takeover.next(view_at(0)).intent is Intent.HOLD
    assert takeover.lease is None
    lease = takeover.take("bob", "tab-2")
    takeover.abandon("tab-2")
    assert takeover.next(view_at(0)).intent is Intent.HOLD
    with pytest.raises(ControlRefused, match="has ended"):
        takeover.release(lease.number)
    takeover.release(takeover.take("bob", "tab-3").number)
    assert takeover.next(view_at(0)) is None


@pytest.mark.parametrize(
    ("outcome", "intent"), [(Outcome.SUCCESS, Intent.LABEL), (Outcome.FAILURE, Intent.LABEL), (None, Intent.DISCARD)]
)
def test_a_label_can_be_taken_back_until_it_ends_the_episode(takeover, clock, outcome, intent):
    number = driven(takeover)
    takeover.end(number, Label(outcome=outcome))
    clock.now_s += UNDO_S - 0.1
    takeover.keep(number)
    assert takeover.next(view_at(0)).intent is Intent.HOLD
    for call in (takeover.resume, takeover.release):
        with pytest.raises(ControlRefused, match="undo the label"):
            call(number)
    takeover.undo(number)
    with pytest.raises(ControlRefused, match="no label"):
        takeover.undo(number)
    clock.now_s += UNDO_S
    assert takeover.next(view_at(0)).intent is Intent.HOLD
    takeover.end(number, Label(outcome=outcome))
    clock.now_s += UNDO_S
    command = takeover.next(view_at(0))
    assert (command.intent, command.outcome, command.operator_id) == (intent, outcome, "ada")
    with pytest.raises(ControlRefused, match="no label"):
        takeover.undo(number)
    takeover.begin()
    assert (takeover.next(view_at(0)).intent, takeover.reason) == (Intent.HOLD, "a new episode begins")


def test_a_label_that_came_after_the_episode_was_over_does_not_touch_the_next_and_says_so(takeover, clock):
    number = driven(takeover)
    takeover.end(number, Label(outcome=Outcome.SUCCESS))
    takeover.begin()
    assert takeover.reason == "the episode was over before its label: a new one begins"
    clock.now_s += UNDO_S
    takeover.keep(number)
    assert takeover.next(view_at(0)).intent is Intent.HOLD


def test_under_a_lease_no_episode_begins_until_the_operator_says_so(takeover, clock):
    assert takeover.may_begin
    number = driven(takeover)
    takeover.over()
    assert (takeover.may_begin, takeover.waits, takeover.reason) == (False, True, "the episode has ended")
    takeover.drive(number, 5, LEFT)  # still on the keys
    assert takeover.phase is Phase.PAUSED
    takeover.resume(number)
    assert (takeover.may_begin, takeover.waits, takeover.phase) == (True, False, Phase.PAUSED)
    takeover.pause(number)  # on the way to its start
    assert not takeover.may_begin
    takeover.resume(number)
    takeover.begin()
    assert (takeover.phase, takeover.reason, takeover.may_begin) == (Phase.PAUSED, "a new episode begins", False)
    takeover.resume(number)
    assert takeover.phase is Phase.HUMAN


def test_a_robot_that_is_handed_back_between_two_episodes_begins(takeover):
    number = driven(takeover)
    takeover.over()
    takeover.release(number)
    assert (takeover.may_begin, takeover.waits, takeover.phase) == (True, False, Phase.AUTONOMOUS)


def test_an_operator_who_goes_while_the_robot_moves_to_its_start_stops_it(takeover, clock):
    number = driven(takeover)
    takeover.over()
    takeover.resume(number)
    assert takeover.may_begin
    clock.now_s += ABANDONED_S + 0.1
    takeover.expire()
    assert (takeover.may_begin, takeover.lease) == (False, None)


def test_a_robot_that_had_a_fault_waits_for_a_person_with_or_without_a_lease(takeover):
    takeover.over()
    assert takeover.may_begin
    takeover.wait_for_person("it had a fault")
    assert (takeover.may_begin, takeover.waits, takeover.reason) == (False, True, "it had a fault")
    number = takeover.take("ada", "tab-1").number
    assert not takeover.may_begin
    takeover.resume(number)
    assert takeover.may_begin


def test_a_take_over_on_the_way_to_a_start_stops_it(takeover):
    takeover.over()
    assert takeover.may_begin
    takeover.take("ada", "tab-1")
    assert not takeover.may_begin


def test_a_label_whose_episode_was_over_is_forgotten_and_says_so(takeover, clock):
    number = driven(takeover)
    takeover.end(number, Label(outcome=Outcome.SUCCESS))
    takeover.over()
    assert (takeover.label, takeover.reason) == (None, "the episode was over before its label")
    takeover.release(number)


VERBS = st.sampled_from(["take", "resume", "drive", "pause", "release", "success", "undo", "begin", "abandon", "wait"])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(VERBS, st.integers(0, 1), st.floats(0, 0.5)), max_size=40))
def test_whatever_operators_do_only_the_lease_holder_with_a_fresh_command_moves_the_robot(steps):
    clock = Clock()
    takeover = Takeover(RELATIVE, clock=clock)
    numbers = [0, 0]
    last_drive_s = [-np.inf, -np.inf]
    for sequence, (verb, who, wait_s) in enumerate(steps):
        clock.now_s += wait_s
        number, client = numbers[who], f"tab-{who}"
        try:
            match verb:
                case "take":
                    numbers[who] = takeover.take(f"operator-{who}", client).number
                case "drive":
                    takeover.drive(number, sequence, LEFT)
                    last_drive_s[who] = clock.now_s
                case "success":
                    takeover.end(number, Label(outcome=Outcome.SUCCESS))
                case "begin":
                    takeover.begin()
                case "abandon":
                    takeover.abandon(client)
                case "wait":
                    pass
                case _:
                    getattr(takeover, verb)(number)
        except ControlRefused:
            pass
        command = takeover.next(view_at(0))
        if command is None:
            assert takeover.lease is None
        elif command.intent is Intent.TAKE_OVER:
            holder = int(takeover.lease.client_id[-1])
            assert takeover.phase is Phase.HUMAN
            assert clock.now_s - last_drive_s[holder] <= DEAD_MAN_S
            assert command.operator_id == f"operator-{holder}"


def view_at(step: int, *scores: float) -> RobotView:
    observation = Observation(state=np.zeros(6, np.float32))
    return RobotView(
        robot_id="a", task=TASKS[0], step=step, observation=observation, sub_step_scores=scores, privileged={}
    )


class Scripted:
    """Takes over from step 5 on."""

    def begin(self, view, seed) -> None:
        pass

    def poll(self, view) -> Command:
        return Command(intent=Intent.TAKE_OVER, action=LEFT) if view.step >= 5 else OBSERVE


def test_while_nobody_takes_over_the_other_operator_acts_under_its_own_name(clock):
    remote = RemoteOperator(RELATIVE, otherwise=Scripted(), clock=clock)
    remote.begin(view_at(0), 1)
    assert remote.poll(view_at(0)) is OBSERVE
    assert remote.poll(view_at(5)).operator_id == SCRIPTED
    remote.take("ada", "tab-1")
    assert remote.poll(view_at(5)).intent is Intent.HOLD
    remote.apply("release", remote.view().lease)
    assert remote.poll(view_at(5)).operator_id == SCRIPTED
    with pytest.raises(ControlRefused, match="'fly' is no command"):
        remote.apply("fly", 1)


def test_a_stuck_robot_asks_for_help_until_it_gets_on(clock):
    remote = RemoteOperator(RELATIVE, help_rule=StuckRule(patience=10), clock=clock)
    changes: list[str] = []
    remote.on_change = lambda: changes.append(remote.view().help_reason)
    remote.begin(view_at(0, 0.0, 0.0), 1)
    remote.poll(view_at(9, 0.0, 0.0))
    assert remote.view().help_reason == ""
    remote.poll(view_at(10, 0.0, 0.0))
    clock.now_s += 7
    remote.poll(view_at(12, 0.0, 0.0))
    assert (remote.view().help_reason, remote.view().help_for_s) == ("no progress for 10 steps", 7.0)
    remote.poll(view_at(13, 1.0, 0.0))
    assert (remote.view().help_reason, remote.view().help_for_s) == ("", 0.0)
    assert changes == ["", "no progress for 10 steps", ""]


def test_wrong_settings_are_named():
    with pytest.raises(ConfigError, match="help_patience is 0"):
        StuckRule(patience=0)
    with pytest.raises(ConfigError, match="the action has no number"):
        Takeover(Driving(control_hz=20, axes=()))


JOINTS = Driving(
    control_hz=20.0,
    axes=(
        drive_axis("elbow", -90, 90, absolute=True, measured=0),
        drive_axis("gripper", 0, 100, absolute=True),
    ),
)
STEP = 45 / 20
UP = np.array([1.0, 0.0], np.float32)


def arm_at(elbow: float, executed: tuple[float, float] | None = (-70.0, 40.0)) -> RobotView:
    state = np.array([elbow, 0, 0], np.float32)
    last = None if executed is None else np.array(executed, np.float32)
    return RobotView(
        robot_id="arm", task=TASKS[0], step=1, observation=Observation(state=state), sub_step_scores=(),
        privileged={}, executed=last,
    )  # fmt: skip


@pytest.fixture
def arm(clock) -> Takeover:
    return Takeover(JOINTS, clock=clock)


def jogged(arm: Takeover, sequence: int, deflection=UP) -> int:
    number = arm.take("ada", "tab-1").number
    arm.resume(number)
    arm.jog(number, sequence, deflection)
    return number


def test_deflections_begin_where_the_arm_is_and_go_on_from_there(arm):
    number = jogged(arm, 1)
    command = arm.next(arm_at(30))
    assert (command.intent, command.operator_id) == (Intent.TAKE_OVER, "ada")
    np.testing.assert_allclose(command.action, [30 + STEP, 40])
    np.testing.assert_allclose(arm.next(arm_at(31)).action, [30 + 2 * STEP, 40])
    arm.jog(number, 2, np.array([0, 0.5], np.float32))
    np.testing.assert_allclose(arm.next(arm_at(32)).action, [30 + 2 * STEP, 40 + 25 / 2 / 20])


def test_hands_off_an_arm_it_holds_its_target(arm):
    number = jogged(arm, 1)
    arm.next(arm_at(30))
    arm.jog(number, 2, 0 * UP)
    assert (arm.next(arm_at(29)).intent, arm.phase) == (Intent.HOLD, Phase.HUMAN)
    arm.jog(number, 3, -UP)
    np.testing.assert_allclose(arm.next(arm_at(29)).action, [30, 40])


@pytest.mark.parametrize("why", ["paused", "dead-man", "label", "episode", "lease", "drive"])
def test_after_every_hold_an_arm_goes_on_from_where_it_is_then(arm, clock, why):
    number = jogged(arm, 1)
    arm.next(arm_at(30))
    match why:
        case "paused":
            arm.pause(number)
        case "dead-man":
            clock.now_s += DEAD_MAN_S + 0.01
            assert arm.next(arm_at(30)).intent is Intent.HOLD
        case "label":
            arm.end(number, Label(outcome=Outcome.SUCCESS))
            arm.undo(number)
        case "episode":
            arm.begin()
        case "lease":
            arm.release(number)
            number = arm.take("bob", "tab-2").number
        case "drive":
            arm.drive(number, 2, np.array([-60.0, 10.0], np.float32))
            np.testing.assert_array_equal(arm.next(arm_at(30)).action, [-60, 10])
    arm.resume(number)
    arm.jog(number, 3, UP)
    np.testing.assert_allclose(arm.next(arm_at(-60, (-60.0, 10.0))).action, [-60 + STEP, 10])


def test_an_arm_of_which_nobody_knows_where_it_is_is_not_moved(arm):
    number = jogged(arm, 1)
    assert arm.next(arm_at(30, None)).intent is Intent.HOLD
    assert arm.reason == "nobody knows where it stands before its first step: hand it back, then take it over"
    arm.resume(number)
    arm.jog(number, 2, UP)
    assert arm.next(arm_at(30)).intent is Intent.TAKE_OVER


def test_deflections_obey_lease_sequence_and_dead_mans_switch(arm, clock):
    number = jogged(arm, 5)
    for call in (lambda: arm.jog(number + 1, 6, -UP), lambda: arm.drive(0, 6, -UP)):
        with pytest.raises(ControlRefused, match="has ended"):
            call()
    # One count for both kinds: a late one of either never replaces a newer one of the other.
    arm.jog(number, 4, -UP)
    arm.drive(number, 5, -UP)
    np.testing.assert_allclose(arm.next(arm_at(30)).action, [30 + STEP, 40])
    clock.now_s += DEAD_MAN_S + 0.01
    assert (arm.next(arm_at(30)).intent, arm.reason) == (Intent.HOLD, "no command for 200 ms")
    arm.jog(number, 6, UP)
    assert arm.next(arm_at(30)).intent is Intent.HOLD


@pytest.mark.parametrize("deflection", [[1.01, 0], [0, -1.5], [np.nan, 0], [np.inf, 0], [0, 0, 0], []])
def test_a_malformed_deflection_is_refused_and_the_robot_holds(arm, deflection):
    number = jogged(arm, 1)
    with pytest.raises(ControlRefused, match=r"send 2 numbers in \[-1, 1\]"):
        arm.jog(number, 2, np.array(deflection, np.float32))
    assert arm.next(arm_at(30)).intent is Intent.HOLD
    assert (arm.phase, arm.reason) == (Phase.PAUSED, "a malformed deflection was refused")


def test_deflections_of_the_scene_are_the_actions_that_its_keys_always_were(clock):
    scene = Takeover(make_robot().driving, clock=clock)
    number = scene.take("ada", "tab-1").number
    scene.resume(number)
    scene.jog(number, 1, np.array([1, -1, 0.3, -0.6, 1], np.float32))
    np.testing.assert_allclose(scene.next(view_at(0)).action, [0.5, -0.5, 0.15, -0.3, 1])
