"""Audit lines of operators who drive robots without this console: what their robots tell on the bus."""

from lwd.console.audit import AuditLog
from lwd.fleet.desk import CLIENT_PREFIX
from lwd.fleet.messages import ControlState


class DeskAudit:
    """Compares what a robot tells with what it told before; a console that was not running has missed something."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    async def on_control(self, before: ControlState | None, now: ControlState) -> None:
        """Write down what an operator at a desk has done with the robot since."""
        had = before if before is not None and before.client_id.startswith(CLIENT_PREFIX) else None
        has = now if now.client_id.startswith(CLIENT_PREFIX) else None
        if had is not None and now.lease != had.lease:
            self._write(had, "release" if now.phase == "autonomous" else "lost")
        if has is None:
            return
        if had is None or had.lease != has.lease:
            self._write(has, "take")
        if has.label and (had is None or had.label != has.label):
            self._write(has, has.label)

    def _write(self, state: ControlState, what: str) -> None:
        self._audit.append(
            state.operator_id,
            what,
            robot_id=state.robot_id,
            lease=state.lease,
            client_id=state.client_id,
            refused="",
        )
