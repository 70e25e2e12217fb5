"""Validation: each rule rejects what breaks it, naming field and value, and accepts what does not."""

from dataclasses import replace

import numpy as np
import pytest

from lwd.data import validation
from lwd.data.episode_file import write_episode
from lwd.data.validation import EpisodeLimits, validate_episode
from lwd.errors import EpisodeRejected
from lwd.types import Outcome, Source

from .episodes import EMBODIMENT, WITH_CAMERA, episode, frame

LIMITS = EpisodeLimits(embodiment=EMBODIMENT, max_steps=100)
CAMERA_LIMITS = EpisodeLimits(embodiment=WITH_CAMERA)


def changed(name: str, step: int, value: float, steps: int = 20):
    whole = episode(steps=steps)
    array = getattr(whole, name).copy()
    array[step] = value
    return replace(whole, **{name: array})


@pytest.mark.parametrize("source", [Source.ROLLOUT, Source.FLEET])
@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.UNLABELLED])
def test_good_episodes_pass(source, outcome):
    good = episode(source=source, outcome=outcome)
    assert validate_episode(good, LIMITS) is good
    assert validate_episode(write_episode(good), LIMITS).info == good.info


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (episode(steps=101), r"steps is 101; it must lie in \[1, 100\]"),
        (changed("states_TS", 7, np.nan), "states is not finite at step 7"),
        (changed("states_TS", 20, np.inf), "states is not finite at step 20"),
        (changed("actions_TA", 3, np.nan), "actions is not finite at step 3"),
        (changed("actions_TA", 3, 1.01), r"actions is \[1.0\d+, 1.0\d+\] at step 3, outside"),
        (changed("controllers_T", 4, 3), "controllers is 3 at step 4"),
        (
            replace(episode(), states_TS=np.zeros((20, 4), np.float32)),
            "states has 20 rows; 20 actions need 21",
        ),
        (replace(episode(), states_TS=np.zeros((21, 5), np.float32)), "states has 5 columns"),
        (replace(episode(), actions_TA=np.zeros((20, 3), np.float32)), "actions has 3 columns"),
        (episode(sub_step_scores=(0.5, 1.5)), r"sub_step_scores\[1\] is 1.5"),
        (
            episode(source=Source.DEMONSTRATION, outcome=Outcome.FAILURE),
            "outcome of a demonstration is failure",
        ),
        (episode(source=Source.DEMONSTRATION, outcome=Outcome.TRUNCATED), "demonstration is truncated"),
        (episode(source=Source.PLAY, outcome=Outcome.SUCCESS), "outcome of play is success"),
        (episode(policy_version=-1), "policy_version is -1"),
        (episode(embodiment="other"), "embodiment is 'other'"),
        (episode(control_hz=30.0), "control_hz is 30.0"),
        (episode(cameras=True), r"cameras are \['wrist'\]; expected \[\]"),
    ],
)
def test_each_rule_names_field_and_value(bad, message):
    with pytest.raises(EpisodeRejected, match=message):
        validate_episode(bad, LIMITS)


def test_rounding_of_an_action_at_its_limit_is_accepted():
    validate_episode(changed("actions_TA", 3, np.nextafter(np.float32(1), np.float32(2))), LIMITS)


def test_frames_must_have_the_cameras_size_and_be_images():
    good = episode(steps=3, cameras=True)
    validate_episode(good, CAMERA_LIMITS)
    for bad_frame, message in [
        (frame(height=5), r"frame 2 of camera wrist has \(height, width\) \(5, 8\)"),
        (b"GIF89a", "neither PNG nor JPEG"),
        (b"", "has 0 bytes"),
    ]:
        frames = (*good.images["wrist"][:2], bad_frame, good.images["wrist"][3])
        with pytest.raises(EpisodeRejected, match=message):
            validate_episode(replace(good, images={"wrist": frames}), CAMERA_LIMITS)


def test_frames_are_checked_without_an_embodiment_too():
    good = episode(steps=3, cameras=True)
    validate_episode(good, EpisodeLimits())
    frames = good.images["wrist"]
    for bad_frame, message in [
        (frames[2][:60], "frame 2 of camera wrist cannot be used: it is a truncated PNG"),
        (frame(height=5), r"frame 2 of camera wrist has \(height, width\) \(5, 8\)"),
    ]:
        bad = replace(good, images={"wrist": (*frames[:2], bad_frame, frames[3])})
        with pytest.raises(EpisodeRejected, match=message):
            validate_episode(bad, EpisodeLimits())


def test_a_long_episode_is_decoded_in_part_and_checked_in_full(monkeypatch):
    decoded = []
    monkeypatch.setattr(validation, "decode_frame", lambda data: decoded.append(data))
    monkeypatch.setattr(validation, "MAX_DECODED_PIXELS", 10 * (4096 + 48))
    long = episode(steps=39, cameras=True)
    validate_episode(long, CAMERA_LIMITS)
    assert decoded == list(long.images["wrist"][::4])
    cut = (*long.images["wrist"][:-1], long.images["wrist"][-1][:60])
    with pytest.raises(EpisodeRejected, match="frame 39 of camera wrist cannot be used"):
        validate_episode(replace(long, images={"wrist": cut}), CAMERA_LIMITS)


def test_a_still_camera_costs_one_frame(monkeypatch):
    decoded = []
    monkeypatch.setattr(validation, "decode_frame", lambda data: decoded.append(data))
    still = replace(episode(steps=39, cameras=True), images={"wrist": (frame(),) * 40})
    validate_episode(still, CAMERA_LIMITS)
    assert decoded == [frame()]


def test_more_frames_than_can_be_looked_at_are_refused(monkeypatch):
    monkeypatch.setattr(validation, "MAX_FRAMES", 20)
    with pytest.raises(EpisodeRejected, match="images are 21 frames, more than 20"):
        validate_episode(episode(cameras=True), CAMERA_LIMITS)
