"""Validation: each rule rejects what breaks it, naming field and value, and accepts what does not."""

from dataclasses import replace

import numpy as np
import pytest

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
@pytest.mark.parametrize("outcome", list(Outcome))
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
        (changed("controllers_T", 4, 2), "controllers is 2 at step 4"),
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
