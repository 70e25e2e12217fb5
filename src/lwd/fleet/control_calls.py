"""Commands to robots over the bus, and the robots' answers."""

import asyncio
import uuid
from collections.abc import Callable

from lwd.errors import ControlRefused, ServiceError
from lwd.fleet.bus import Bus
from lwd.fleet.messages import ControlCommand, ControlState, command_subject

_ANSWER_WITHIN_S = 2.0


class ControlCalls:
    """Sends commands and finds each one's answer among the states that robots publish."""

    def __init__(self, bus: Callable[[], Bus | None]) -> None:
        """
        Args:
            bus: the connection of the moment; None: there is none.
        """
        self._bus = bus
        self._answers: dict[str, asyncio.Future[ControlState]] = {}

    def on_control(self, state: ControlState) -> None:
        """A robot has published its state of control."""
        answer = self._answers.get(state.request_id)
        if answer is not None and not answer.done():
            answer.set_result(state)

    async def send(self, command: ControlCommand) -> None:
        """Pass a command on; nobody answers.

        Raises:
            ServiceError: if the bus is not there.
        """
        if (bus := self._bus()) is None:
            raise ServiceError("the message bus is not there yet")
        await bus.publish(command_subject(command.robot_id), command)

    async def ask(self, command: ControlCommand) -> ControlState:
        """Pass a command on and return the robot's answer.

        Raises:
            ControlRefused: if the robot refuses.
            ServiceError: if the robot does not answer.
        """
        request_id = uuid.uuid4().hex
        answer: asyncio.Future[ControlState] = asyncio.get_running_loop().create_future()
        self._answers[request_id] = answer
        try:
            await self.send(command.model_copy(update={"request_id": request_id}))
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                state = await answer
        except TimeoutError as error:
            raise ServiceError(
                f"robot {command.robot_id} did not answer within {_ANSWER_WITHIN_S:g} s: is its host running?"
            ) from error
        finally:
            del self._answers[request_id]
        if state.refused:
            raise ControlRefused(state.refused)
        return state
