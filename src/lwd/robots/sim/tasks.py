"""The eight tasks of the OGBench scene: where they start, what their goal is, how they are said.

The long tasks are OGBench's tasks 2 to 5. Joint positions: the drawer slides from 0 (shut) to -0.16 m (open),
the window from 0 (shut) to 0.2 m (open). A button's state 1 unlocks what it guards (0: drawer, 1: window).
"""

from dataclasses import dataclass

from lwd.errors import UnknownTask
from lwd.types import Task

DRAWER_OPEN_M = -0.16
WINDOW_OPEN_M = 0.2
CUBE_IN_OPEN_DRAWER_M = (0.33, -0.24, 0.066)
CUBE_IN_SHUT_DRAWER_M = (0.33, -0.356, 0.065986)


@dataclass(frozen=True, kw_only=True)
class SceneGoal:
    """Start and goal of one task in the scene's own coordinates."""

    cube_start_m: tuple[float, float, float]
    cube_goal_m: tuple[float, float, float] | None
    """None: the cube is not part of the goal, and its goal is its start."""
    buttons_start: tuple[int, int]
    buttons_goal: tuple[int, int]
    drawer_start_m: float
    drawer_goal_m: float
    window_start_m: float
    window_goal_m: float


_OPEN_DRAWER = Task(
    name="open_drawer",
    instructions=(
        "open the drawer",
        "pull the drawer open",
        "slide the drawer out",
        "get the drawer open",
        "pull out the drawer",
        "open up the drawer please",
        "could you open the drawer",
        "the drawer should be open",
        "make sure the drawer is open",
        "grab the handle and pull the drawer towards you",
    ),
    heldout_instructions=("please open up the drawer", "draw the drawer out towards you"),
    sub_steps=("open drawer",),
    time_limit=60,
    long_horizon=False,
)
_CLOSE_WINDOW = Task(
    name="close_window",
    instructions=(
        "close the window",
        "shut the window",
        "slide the window shut",
        "push the window closed",
        "get the window closed",
        "close the open window please",
        "could you shut the window",
        "the window should be shut",
        "make sure that the window is shut",
        "grab the handle and slide the window closed",
    ),
    heldout_instructions=("please shut the open window", "make sure the window is closed"),
    sub_steps=("close window",),
    time_limit=60,
    long_horizon=False,
)
_PRESS_BUTTON = Task(
    name="press_button",
    instructions=(
        "press the drawer's button",
        "push the button of the drawer",
        "hit the button that unlocks the drawer",
        "press the button to unlock the drawer",
        "unlock the drawer with its button",
        "press the button next to the drawer please",
        "could you push the drawer's button",
        "the drawer should be unlocked",
        "make sure the drawer is unlocked",
        "release the drawer's lock by pressing its button",
    ),
    heldout_instructions=("use the button to release the drawer's lock", "give the drawer's button a push"),
    sub_steps=("press drawer button",),
    time_limit=50,
    long_horizon=False,
)
_MOVE_CUBE = Task(
    name="move_cube",
    instructions=(
        "move the cube to the left side of the table",
        "put the cube on the left of the table",
        "pick up the cube and place it on the left",
        "carry the cube over to the left side",
        "bring the cube to the left",
        "move the block to the left please",
        "could you put the block on the left side",
        "the cube should be on the left of the table",
        "make sure the block ends up on the left",
        "shift the block over to the table's left side",
    ),
    heldout_instructions=(
        "relocate the block to the table's left",
        "set the cube down on the left-hand side",
    ),
    sub_steps=("move cube",),
    time_limit=110,
    long_horizon=False,
)
_UNLOCK_AND_LOCK = Task(
    name="unlock_and_lock",
    instructions=(
        "close the drawer and the window and lock them",
        "shut and lock both the drawer and the window",
        "unlock the drawer and the window, close them, and lock them again",
        "close everything and lock it",
        "make the drawer and the window shut and locked",
        "close the drawer and the window, then lock both please",
        "could you lock up the drawer and the window",
        "the drawer and the window should be closed and locked",
        "make sure that both are closed and locked",
        "shut both of them and leave them locked",
    ),
    heldout_instructions=(
        "lock up the drawer and the window once they are closed",
        "close both and leave them locked",
    ),
    sub_steps=(
        "unlock drawer",
        "close drawer",
        "lock drawer",
        "unlock window",
        "close window",
        "lock window",
    ),
    time_limit=300,
    long_horizon=True,
)
_REARRANGE_MEDIUM = Task(
    name="rearrange_medium",
    instructions=(
        "move the cube to the left, open the drawer and close the window",
        "put the cube on the left, pull the drawer open, then unlock and shut the window",
        "rearrange: cube to the left, drawer open, window closed",
        "bring the cube left, open the drawer and shut the window",
        "carry the cube to the left side, then open the drawer and close the window",
        "open the drawer, shut the window and move the block to the left please",
        "could you put the block on the left, open the drawer and close the window",
        "the block should be on the left, the drawer open and the window closed",
        "make sure the cube is on the left, the drawer is open and the window is shut",
        "once the cube is on the left, open the drawer and shut the window",
    ),
    heldout_instructions=(
        "the cube belongs on the left, the drawer should be open and the window shut",
        "open the drawer and close the window after moving the cube left",
    ),
    sub_steps=("move cube", "open drawer", "unlock window", "close window"),
    time_limit=260,
    long_horizon=True,
)
_PUT_IN_DRAWER = Task(
    name="put_in_drawer",
    instructions=(
        "put the cube in the drawer",
        "unlock the drawer and put the cube inside",
        "place the cube into the drawer and close it",
        "store the cube in the drawer",
        "open the drawer, drop the cube in, and shut it",
        "put the block inside the drawer please",
        "could you put the block away in the drawer",
        "the block should be in the closed drawer",
        "make sure the cube ends up in the drawer",
        "stash the block in the drawer and close it",
    ),
    heldout_instructions=(
        "stow the block away in the drawer",
        "the cube should end up inside the closed drawer",
    ),
    sub_steps=("unlock drawer", "open drawer", "cube in drawer", "close drawer"),
    time_limit=260,
    long_horizon=True,
)
_REARRANGE_HARD = Task(
    name="rearrange_hard",
    instructions=(
        "lock the cube in the drawer, then open the window and lock it",
        "put the cube in the drawer, lock the drawer, open the window and lock it",
        "store the cube in the locked drawer and lock the window open",
        "stow the cube, lock the drawer, then open and lock the window",
        "rearrange: cube locked in the drawer, window locked open",
        "lock the block in the drawer and lock the window open please",
        "could you lock the block away in the drawer and lock the open window",
        "the block should be locked in the drawer and the window locked open",
        "make sure the cube is locked in the drawer and the window is open and locked",
        "with the cube locked away in the drawer, open the window and lock it",
    ),
    heldout_instructions=(
        "leave the window open and locked with the cube locked away in the drawer",
        "lock away the cube in the drawer and fix the window open",
    ),
    sub_steps=(
        "unlock drawer",
        "open drawer",
        "cube in drawer",
        "close drawer",
        "lock drawer",
        "unlock window",
        "open window",
        "lock window",
    ),
    time_limit=400,
    long_horizon=True,
)

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _OPEN_DRAWER,
        _CLOSE_WINDOW,
        _PRESS_BUTTON,
        _MOVE_CUBE,
        _UNLOCK_AND_LOCK,
        _REARRANGE_MEDIUM,
        _PUT_IN_DRAWER,
        _REARRANGE_HARD,
    )
}

GOALS: dict[str, SceneGoal] = {
    "open_drawer": SceneGoal(
        cube_start_m=(0.35, 0.05, 0.02),
        cube_goal_m=None,
        buttons_start=(1, 1),
        buttons_goal=(1, 1),
        drawer_start_m=0.0,
        drawer_goal_m=DRAWER_OPEN_M,
        window_start_m=0.0,
        window_goal_m=0.0,
    ),
    "close_window": SceneGoal(
        cube_start_m=(0.35, 0.05, 0.02),
        cube_goal_m=None,
        buttons_start=(1, 1),
        buttons_goal=(1, 1),
        drawer_start_m=0.0,
        drawer_goal_m=0.0,
        window_start_m=WINDOW_OPEN_M,
        window_goal_m=0.0,
    ),
    "press_button": SceneGoal(
        cube_start_m=(0.35, 0.05, 0.02),
        cube_goal_m=None,
        buttons_start=(0, 0),
        buttons_goal=(1, 0),
        drawer_start_m=0.0,
        drawer_goal_m=0.0,
        window_start_m=0.0,
        window_goal_m=0.0,
    ),
    "move_cube": SceneGoal(
        cube_start_m=(0.4, -0.05, 0.02),
        cube_goal_m=(0.4, 0.15, 0.02),
        buttons_start=(0, 0),
        buttons_goal=(0, 0),
        drawer_start_m=0.0,
        drawer_goal_m=0.0,
        window_start_m=0.0,
        window_goal_m=0.0,
    ),
    "unlock_and_lock": SceneGoal(
        cube_start_m=(0.35, -0.05, 0.02),
        cube_goal_m=None,
        buttons_start=(0, 0),
        buttons_goal=(0, 0),
        drawer_start_m=DRAWER_OPEN_M,
        drawer_goal_m=0.0,
        window_start_m=WINDOW_OPEN_M,
        window_goal_m=0.0,
    ),
    "rearrange_medium": SceneGoal(
        cube_start_m=(0.4, -0.05, 0.02),
        cube_goal_m=(0.4, 0.15, 0.02),
        buttons_start=(1, 0),
        buttons_goal=(1, 1),
        drawer_start_m=0.0,
        drawer_goal_m=DRAWER_OPEN_M,
        window_start_m=WINDOW_OPEN_M,
        window_goal_m=0.0,
    ),
    "put_in_drawer": SceneGoal(
        cube_start_m=(0.35, 0.05, 0.02),
        cube_goal_m=CUBE_IN_SHUT_DRAWER_M,
        buttons_start=(0, 0),
        buttons_goal=(1, 0),
        drawer_start_m=0.0,
        drawer_goal_m=0.0,
        window_start_m=0.0,
        window_goal_m=0.0,
    ),
    "rearrange_hard": SceneGoal(
        cube_start_m=(0.35, 0.15, 0.02),
        cube_goal_m=CUBE_IN_SHUT_DRAWER_M,
        buttons_start=(0, 0),
        buttons_goal=(0, 0),
        drawer_start_m=0.0,
        drawer_goal_m=0.0,
        window_start_m=0.0,
        window_goal_m=WINDOW_OPEN_M,
    ),
}


def task_named(name: str) -> Task:
    """Return the task of that name.

    Raises:
        UnknownTask: if the scene has no such task.
    """
    if name not in TASKS:
        raise UnknownTask(f"task {name!r} is not known; the tasks of ogbench-scene are: {', '.join(TASKS)}")
    return TASKS[name]
