"""Commands to robots over the bus, and the robots' answers."""

import uuid
from collections.abc import Awaitable, Callable

from lwd.errors import ControlRefused, ServiceError
from lwd.fleet.bus import Bus
from lwd.fleet.messages import ControlCommand, ControlState, command_subject

_ANSWER_WITHIN_S = 2.0


class ControlCalls:
    """Sends commands; the answer to each comes to an inbox that only its robot's host is told."""

    def __init__(
        self, bus: Callable[[], Bus | None], on_answer: Callable[[ControlState], Awaitable[None]] | None = None
    ) -> None:
        """
        Args:
            bus: the connection of the moment; None: there is none.
            on_answer: told of each answer, which is news of the robot before its next public state; None: nobody.
        """
        self._bus = bus
        self._on_answer = on_answer

    async def send(self, command: ControlCommand) -> None:
        """Pass a command on; nobody answers.

        Raises:
            ServiceError: if the bus is not there.
        """
        await self._connected().publish(command_subject(command.robot_id), command)

    async def ask(self, command: ControlCommand) -> ControlState:
        """Pass a command on and return the robot's answer.

        Raises:
            ControlRefused: if the robot refuses.
            ServiceError: if the robot does not answer.
        """
        asked = command.model_copy(update={"request_id": uuid.uuid4().hex})
        try:
            state = await self._connected().ask(
                command_subject(command.robot_id), asked, ControlState, _ANSWER_WITHIN_S
            )
        except ServiceError as error:
            raise ServiceError(f"robot {command.robot_id} did not answer ({error}): is its host running?") from error
        if (state.robot_id, state.request_id) != (command.robot_id, asked.request_id):
            raise ServiceError(f"robot {command.robot_id} was asked, and {state.robot_id} answers: look into its host")
        if self._on_answer is not None:
            await self._on_answer(state)
        if state.refused:
            raise ControlRefused(state.refused)
        return state

    def _connected(self) -> Bus:
        if (bus := self._bus()) is None:
            raise ServiceError("the message bus is not there yet")
        return bus
