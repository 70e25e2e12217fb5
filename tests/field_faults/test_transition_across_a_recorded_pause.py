"""A recording that paused, in time or where a person took over, has no transition across the pause (A8)."""

from dataclasses import replace

import numpy as np
import pytest

from lwd.data.arena import ReplayArena
from lwd.data.lerobot.importing import ImportSettings, episode_of, plan
from lwd.data.lerobot.layout import derived_embodiment, layout_of
from lwd.data.lerobot.recording import Recording
from lwd.types import Controller, Episode, Outcome

FPS, FRAMES, PAUSE = 10.0, 24, 11
FEATURES = {
    "observation.state": {"dtype": "float32", "shape": [2], "names": ["a", "b"]},
    "action": {"dtype": "float32", "shape": [2]},
    "intervention": {"dtype": "bool", "shape": [1]},
}


def recorded(*, late: bool = False, jump: float = 0.0, taken_over: bool = True) -> Recording:
    """A slow movement; after frame PAUSE a person may take over, time may pass, and the state may jump."""
    frame_N = np.arange(FRAMES)
    states_NS = np.stack([0.1 * frame_N, 0.1 * np.sin(frame_N)], axis=1).astype(np.float32)
    states_NS[PAUSE + 1 :, 0] += jump
    times_s_N = frame_N / FPS + np.where(frame_N > PAUSE, 4.0 if late else 0.0, 0.0)
    human_N = (taken_over & (frame_N > PAUSE)).astype(np.uint8)
    return Recording(
        index=0, instruction="stack", states_NS=states_NS, actions_NA=states_NS, human_N=human_N,
        outcome=Outcome.SUCCESS, times_s_N=times_s_N,
    )  # fmt: skip


def imported(recording: Recording, control_hz: float | None = None) -> tuple[Episode, tuple[str, ...]]:
    layout = layout_of(FEATURES, FPS)
    arm = derived_embodiment(
        layout, recording.actions_NA, name="arm", control_hz=control_hz or FPS, image_size=None
    )  # fmt: skip
    settings = ImportSettings(name="cups", all_success=True, control_hz=control_hz)
    planned = plan(recording, layout, arm, settings, task="pick_up")
    assert planned.problems == ()

    class Source:
        pass

    source = Source()
    source.layout = replace(layout, cameras=())
    return episode_of(planned, source, arm, settings), planned.recording.notes


@pytest.mark.parametrize(
    "recording", [recorded(late=True, taken_over=False), recorded(jump=2.0), recorded(late=True, jump=2.0)]
)
def test_the_window_ends_at_the_pause(recording: Recording) -> None:
    episode, notes = imported(recording)
    assert np.flatnonzero(episode.controllers_T == Controller.NOBODY).tolist() == [PAUSE]
    assert len(notes) >= 1
    assert f"the first after frame {PAUSE}" in notes[0]
    arm = derived_embodiment(
        layout_of(FEATURES, FPS), recording.actions_NA, name="arm", control_hz=FPS, image_size=None
    )
    arena = ReplayArena(arm, horizon=6, gamma=0.9, embed=lambda text: np.zeros(1), initial_rows=4)
    arena.add([episode])
    batch = arena.gather(np.array([PAUSE - 2, PAUSE + 1]), 2)
    np.testing.assert_array_equal(batch.bootstrap_observation.state_BS[0], recording.states_NS[PAUSE])
    assert batch.action_mask_BH.sum(dim=1).tolist() == [2, 6]
    assert batch.bootstrap_discount_B[0].item() == pytest.approx(0.81)


@pytest.mark.parametrize("recording", [recorded(), recorded(jump=0.1), recorded(jump=2.0, taken_over=False)])
def test_what_moves_as_elsewhere_or_with_nobody_taking_over_is_no_pause(recording: Recording) -> None:
    """A state that jumps in the middle of one's own movement may be the task's: a thing that falls."""
    episode, notes = imported(recording)
    assert not (episode.controllers_T == Controller.NOBODY).any()
    assert notes == ()


def test_a_pause_inside_a_step_of_merged_frames_is_that_steps() -> None:
    episode, _ = imported(recorded(late=True), control_hz=FPS / 2)
    assert np.flatnonzero(episode.controllers_T == Controller.NOBODY).tolist() == [PAUSE // 2]
    assert episode.steps == (FRAMES - 1) // 2
