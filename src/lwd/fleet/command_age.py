"""How old a command may be: a robot moves only for somebody who sees it as it is now.

What a robot's host sends of it carries the host's monotonic clock (`robot_time_s`), and a command repeats the newest
that its sender had seen (`seen_s`). So the host knows how old the sender's picture is, however long either way took; no
other clock counts.

| verb | starts motion | older than .5 s | no echo (a console or desk of an earlier version) |
|---|---|---|---|
| take, pause, abandon | no: holds | obeyed | obeyed |
| success, failure, discard | no: holds, and ends the episode 3 s later | obeyed | obeyed |
| undo, keep | no: the robot goes on holding | obeyed | obeyed |
| resume | yes: lets the operator drive, or the robot go to its start | refused | refused |
| drive, jog | yes | refused | refused |
| release | yes: the policy acts | refused: it goes on holding | obeyed: else nobody could hand it back |
"""

from lwd.errors import ControlRefused
from lwd.fleet.messages import ControlCommand

FRESH_S = 0.5
"""A command whose sender saw the robot longer ago moves nothing."""
_MOVES = frozenset({"resume", "drive", "jog", "release"})


def require_fresh(command: ControlCommand, now_s: float) -> None:
    """Check a command's age.

    Args:
        now_s: of the clock that `robot_time_s` is of.
    Raises:
        ControlRefused: if it would move the robot, and whoever sent it saw the robot too long ago.
    """
    if command.verb not in _MOVES:
        return
    if not command.seen_s:
        if command.verb == "release":
            return
        raise ControlRefused(
            f"{command.verb} does not say what its sender saw of the robot (seen_s): use the same lwd at console, desk "
            "and robot"
        )
    age_s = now_s - command.seen_s
    if not 0 <= age_s <= FRESH_S:
        was = f"{age_s:.1f} s ago" if age_s > 0 else "by the clock of another start of its host"
        raise ControlRefused(
            f"{command.verb} came late: its sender saw the robot {was}, {FRESH_S:g} s are allowed; try again"
        )
