"""What a foreign environment raises or returns wrong is a fault of that robot, never the end of the host (row 17)."""

import logging
import signal

import numpy as np
import pytest
from gymnasium import spaces

from lwd.errors import ConfigError, RobotFault
from lwd.robots.gym import GymRobot, GymSettings
from lwd.types import Outcome

from .environments import TASK, Told, robot_of

STILL = np.zeros(2, np.float32)
FINE = {"state": np.zeros(3, np.float32)}
NO = {"is_success": False}


def raising(error: BaseException):
    def method(_: object) -> None:
        raise error

    return method


def begin_and_step(robot: GymRobot) -> None:
    robot.reset(TASK, 0)
    robot.step(STILL)


class Panic(BaseException):
    """As of extensions written in Rust."""


RAISED = [ValueError("no"), SystemExit(3), Panic("index out of bounds"), MemoryError(), RecursionError("deep")]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("method", ["reset", "step", "render"])
def test_whatever_is_raised_is_a_fault_and_the_environment_is_built_anew(method, error):
    built: list[Told] = []

    def make(_: object) -> Told:
        built.append(Told(**({} if built else {method: raising(error)})))
        return built[-1]

    robot = GymRobot(make, (TASK,), GymSettings(name="told", rendered=(8, 8)))
    with pytest.raises(RobotFault, match=f"{method} of task count raised {type(error).__name__}"):
        begin_and_step(robot)
    assert built[0].closed == 1
    with pytest.raises(RobotFault, match="no episode running"):
        robot.step(STILL)
    robot.reset(TASK, 0)
    assert robot.step(STILL).outcome is None
    assert len(built) == 2


RETURNED = {
    "old-reset": ("reset", FINE, r"reset of task count returned a dict; expected \(observation, info\)"),
    "no-observation": ("reset", (None, {}), "the observation has no state.*NoneType"),
    "four-values": ("step", (FINE, 0.0, False, NO), "step of task count returned 4 values; expected"),
    "nothing": ("step", None, "step of task count returned a NoneType"),
    "no-info": ("step", (FINE, 0.0, False, False, None), "info a NoneType; expected a dict"),
    "info-text": ("step", (FINE, 0.0, False, False, "is_success"), "info a str; expected a dict"),
    "no-success": (
        "step",
        (FINE, 0.0, False, False, {"TimeLimit": 1}),
        "no is_success or success .*TimeLimit.*--success",
    ),
    "success-text": ("step", (FINE, 0.0, False, False, {"success": "False"}), "'False': no numbers"),
    "success-nan": ("step", (FINE, 0.0, False, False, {"success": np.nan}), "must be a bool or a finite number"),
    "success-empty": ("step", (FINE, 0.0, False, False, {"success": []}), "must be a bool or a finite number"),
    "terminated-text": ("step", (FINE, 0.0, "no", False, NO), "terminated of task count is 'no'"),
    "terminated-two": ("step", (FINE, 0.0, [True, False], False, NO), r"terminated of task count has shape \(2,\)"),
    "missing-key": ("step", ({"pose": FINE["state"]}, 0.0, False, False, NO), "no state, which its space promises"),
    "other-shape": ("step", ({"state": np.zeros(4)}, 0.0, False, False, NO), r"state has shape \(4,\); .* \(3,\)"),
    "ragged": ("step", ({"state": [[1.0], [1.0, 2.0]]}, 0.0, False, False, NO), "reading observation state raised"),
    "nan": ("step", ({"state": [0.0, np.nan, 0.0]}, 0.0, False, False, NO), "observation state is not finite"),
    "too-large": ("step", ({"state": [0.0, 1e300, 0.0]}, 0.0, False, False, NO), "observation state is not finite"),
    "far-outside": ("step", ({"state": [0.0, 0.0, 1e6]}, 0.0, False, False, NO), "1e[+]06 at 2, far outside"),
    "render-none": ("render", None, "render of task count returned None; make it with render_mode"),
    "render-list": ("render", [np.zeros((8, 8, 3), np.uint8)] * 2, r"render of task count has shape \(2, 8, 8, 3\)"),
}


@pytest.mark.parametrize(("method", "returned", "message"), RETURNED.values(), ids=RETURNED)
def test_whatever_is_returned_wrong_is_a_fault_with_its_reason(method, returned, message):
    robot = robot_of(Told(**{method: lambda _: returned}), rendered=(8, 8) if method == "render" else None)
    with pytest.raises(RobotFault, match=message):
        begin_and_step(robot)


def test_a_reward_counts_only_where_a_rule_reads_it():
    bad = Told(step=lambda _: (FINE, np.nan, False, False, NO))
    robot = robot_of(bad)
    robot.reset(TASK, 0)
    assert robot.step(STILL).outcome is None
    robot = robot_of(bad, "reward>=1")
    robot.reset(TASK, 0)
    with pytest.raises(RobotFault, match="the reward is nan: it must be one finite number"):
        robot.step(STILL)


def test_leaving_the_space_by_a_little_is_said_once(caplog):
    robot = robot_of(Told(step=lambda _: ({"state": [0.0, 0.0, 10.5]}, 0.0, False, False, NO)))
    robot.reset(TASK, 0)
    with caplog.at_level(logging.WARNING):
        robot.step(STILL)
        robot.step(STILL)
    assert [record.message for record in caplog.records] == [
        "observation state of task count leaves the space that it states"
    ]


def test_a_close_that_raises_is_logged(caplog):
    robot = robot_of(Told(close=raising(OSError("window"))))
    robot.close()
    assert "closing the environment of task count raised OSError: window" in caplog.text


def test_a_constructor_that_cannot_with_these_settings_ends_the_start_and_another_one_does_not(caplog):
    def wrong(_: object) -> Told:
        return Told(1, 2, 3, 4, 5)  # type: ignore[call-arg, arg-type]

    with pytest.raises(ConfigError, match=r"making the environment of task count raised TypeError.*arguments"):
        GymRobot(wrong, (TASK,), GymSettings(name="told"))

    tries: list[int] = []

    def busy(_: object) -> Told:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("no graphics memory left")
        return Told()

    # Something else says what it is: the run's file, or another robot of the host.
    robot = GymRobot(busy, (TASK,), GymSettings(name="told", embodiment=robot_of(Told()).embodiment))
    assert "no graphics memory left; it is tried again" in caplog.text
    with pytest.raises(RobotFault, match="OSError: no graphics memory left"):
        robot.reset(TASK, 0)
    robot.reset(TASK, 0)
    assert robot.step(STILL).outcome is None


def test_an_interrupt_is_a_persons_only_where_ctrl_c_would_be_one(keep_signals):
    robot = robot_of(Told(step=raising(KeyboardInterrupt())))
    robot.reset(TASK, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        robot.step(STILL)
    signal.signal(signal.SIGINT, lambda *_: None)
    robot.reset(TASK, 0)
    with pytest.raises(RobotFault, match="raised KeyboardInterrupt"):
        robot.step(STILL)


def test_pictures_are_converted_or_refused_at_the_start():
    """Float pictures and channel-first ones were 12,292 numbers of the state (row 11)."""
    grey = np.linspace(0, 1, 16 * 24, dtype=np.float32).reshape(16, 24)
    expected = np.repeat(np.rint(grey * 255).astype(np.uint8)[..., None], 3, axis=-1)
    forms = {
        "float": (0, 1, np.float32, np.repeat(grey[..., None], 3, -1)),
        "first": (0, 255, np.uint8, np.moveaxis(expected, -1, 0)),
        "float-first": (-1, 1, np.float64, np.moveaxis(np.repeat(grey[..., None] * 2 - 1, 3, -1), -1, 0)),
        "grey": (0, 255, np.uint8, expected[..., :1]),
        "flat": (0, 255, np.uint8, expected[..., 0]),
        "wide": (0, 255, np.int64, expected.astype(np.int64)),
        "usual": (0, 255, np.uint8, expected),
    }
    space = spaces.Dict(
        {"state": spaces.Box(-1, 1, (3,))}
        | {name: spaces.Box(low, high, value.shape, dtype) for name, (low, high, dtype, value) in forms.items()}
    )
    seen = FINE | {name: value for name, (_, _, _, value) in forms.items()}
    robot = robot_of(Told(observation_space=space, reset=lambda _: (seen, {})))
    assert robot.embodiment.state_size == 3
    assert dict(robot.embodiment.cameras) == dict.fromkeys(forms, (16, 24))
    images = robot.reset(TASK, 0).images
    for name in forms:
        np.testing.assert_array_equal(images[name], expected, err_msg=name)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (spaces.Box(-np.inf, np.inf, (16, 24, 3), np.float32), "a picture goes from 0 to 1"),
        (spaces.Box(0, 255, (16, 24, 4), np.uint8), "a picture has 3 colours, or 1"),
        (spaces.Box(0, 255, (4, 16, 24, 3), np.uint8), "leave the stacking of frames out"),
        (spaces.Discrete(4), "is a Discrete; only Box and Dict are known"),
    ],
)
def test_what_is_neither_numbers_nor_a_picture_is_refused(part, message):
    space = spaces.Dict({"state": spaces.Box(-1, 1, (3,)), "part": part})
    with pytest.raises(ConfigError, match=message):
        robot_of(Told(observation_space=space))


def test_names_that_cannot_be_recorded_or_told_apart_are_refused():
    picture = spaces.Box(0, 255, (16, 24, 3), np.uint8)
    with pytest.raises(ConfigError, match="camera 'my camera' cannot be recorded"):
        robot_of(Told(observation_space=spaces.Dict({"state": spaces.Box(-1, 1, (3,)), "my camera": picture})))
    numbers = spaces.Box(-1, 1, (3,))
    with pytest.raises(ConfigError, match=r"two observations are called a\.b"):
        robot_of(Told(observation_space=spaces.Dict({"a.b": numbers, "a": spaces.Dict({"b": numbers})})))


def test_a_success_key_that_comes_with_the_last_step_works_when_it_is_named(caplog):
    robot = robot_of(Told(info=lambda step: {"won": True} if step == 4 else {}), "won")
    robot.reset(TASK, 0)
    assert [robot.step(STILL).outcome for _ in range(4)] == [None, None, None, Outcome.SUCCESS]
    assert "--success" not in caplog.text
    # One that never comes is said.
    robot = robot_of(Told(), "wno")
    robot.reset(TASK, 0)
    assert [robot.step(STILL).outcome for _ in range(4)][-1] is Outcome.TRUNCATED
    assert "in a whole episode info had no key wno of info; at the last step it had is_success" in caplog.text
