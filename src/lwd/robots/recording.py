"""What a session records of an episode, step by step."""

import io

import numpy as np
from PIL import Image

from lwd.errors import RobotFault
from lwd.types import Controller, Embodiment, Episode, EpisodeInfo, FloatArray, Observation, Outcome


class Recording:
    """The arrays of one episode: one observation more than there are actions."""

    def __init__(self, embodiment: Embodiment, identity: dict[str, object]) -> None:
        """
        Args:
            identity: what is known of `EpisodeInfo` when the episode begins.
        """
        self._identity = identity
        self._actions: list[FloatArray] = []
        self._controllers: list[int] = []
        self._states: list[FloatArray] = []
        self._frames: dict[str, list[bytes]] = {name: [] for name in embodiment.cameras}
        self._operator_ids: list[str] = []
        self._operator_steps: list[int] = []
        self._gaps = 0

    @property
    def steps(self) -> int:
        """Control steps that were made."""
        return len(self._actions) - self._gaps

    @property
    def last_action(self) -> FloatArray | None:
        return self._actions[-1] if self._actions else None

    @property
    def human_acts(self) -> bool:
        """Whether the last step was the operator's."""
        return bool(self._controllers) and self._controllers[-1] == Controller.HUMAN

    def see(self, observation: Observation) -> None:
        """Add an observation."""
        self._states.append(np.array(observation.state, dtype=np.float32))
        for name, frames in self._frames.items():
            buffer = io.BytesIO()
            Image.fromarray(observation.images[name]).save(buffer, format="PNG")
            frames.append(buffer.getvalue())

    def begin_again(self, observation: Observation) -> None:
        """What acts next begins at another observation: the world went on while nobody acted.

        What the last action led to stays as it was seen: there is a gap behind it. Before the first action there is
        nothing to keep.
        """
        if self._actions:
            self._actions.append(self._actions[-1])
            self._controllers.append(int(Controller.NOBODY))
            self._gaps += 1
        else:
            self._states.pop()
            for frames in self._frames.values():
                frames.pop()
        self.see(observation)

    def act(self, executed: FloatArray, controller: Controller) -> None:
        """Add an action; an observation follows."""
        self._actions.append(executed.astype(np.float32))
        self._controllers.append(int(controller))

    def note_operator(self, operator_id: str) -> None:
        """Note who acts from this step on, unless it is known already."""
        if operator_id and not (self.human_acts and self._operator_ids[-1:] == [operator_id]):
            self._operator_ids.append(operator_id)
            self._operator_steps.append(len(self._actions))

    def episode(self, outcome: Outcome, sub_step_scores: tuple[float, ...]) -> Episode:
        """Return what was recorded.

        Raises:
            RobotFault: if there is no step.
        """
        if not self._actions:
            raise RobotFault(f"episode {self._identity['episode_id']} has no steps to record")
        return Episode(
            info=EpisodeInfo(
                outcome=outcome,
                sub_step_scores=sub_step_scores,
                operator_ids=tuple(self._operator_ids),
                operator_steps=tuple(self._operator_steps),
                **self._identity,  # type: ignore[arg-type]
            ),
            states_TS=np.stack(self._states),
            actions_TA=np.stack(self._actions),
            controllers_T=np.array(self._controllers, dtype=np.uint8),
            images={name: tuple(frames) for name, frames in self._frames.items()},
        )
