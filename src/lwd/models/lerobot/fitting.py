"""A checkpoint's features, relative actions and normalisation become those of a run, as in LeRobot's fine-tuning."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from lwd.errors import ConfigError
from lwd.models.lerobot.vla import LeRobotVLAConfig
from lwd.types import Embodiment

FeatureStatistics = Mapping[str, Mapping[str, torch.Tensor]]
"""Feature ("observation.state", "action") -> mean, std, min, max, q01, q10, q90, q99 of each entry."""
Measure = Callable[[tuple[bool, ...]], FeatureStatistics]
"""Which entries of an action (A,) are relative to the state's entry of the same index -> statistics of what the
normaliser sees of them."""


def fit_features(lerobot: Any, embodiment: Embodiment, config: LeRobotVLAConfig) -> None:
    """Give a checkpoint's configuration the features of an embodiment.

    Raises:
        ConfigError: if the checkpoint has too few entries for them.
    """
    from lerobot.configs import FeatureType, PolicyFeature

    for name, size, most in (
        ("state", embodiment.state_size, lerobot.max_state_dim),
        ("action", embodiment.action_size, lerobot.max_action_dim),
    ):
        if size > most:
            raise ConfigError(
                f"{name} of embodiment {embodiment.name!r} has {size} entries, the checkpoint takes {most}"
            )
    renamed = dict(config.camera_keys)
    images = {
        f"observation.images.{renamed.get(camera, camera)}": PolicyFeature(FeatureType.VISUAL, (3, *size))
        for camera, size in embodiment.cameras.items()
    }
    state = PolicyFeature(FeatureType.STATE, (embodiment.state_size,))
    lerobot.input_features = {"observation.state": state, **images}
    lerobot.output_features = {"action": PolicyFeature(FeatureType.ACTION, (embodiment.action_size,))}


def fit_processors(
    lerobot: Any, preprocessor: Any, postprocessor: Any, embodiment: Embodiment, fit_to: Measure
) -> None:
    """Give a checkpoint's processors the features of its (fitted) configuration and the statistics of the data.

    Raises:
        ConfigError: if actions are to be relative and cannot be, or nothing says which of them are.
    """
    from lerobot.configs import FeatureType, NormalizationMode
    from lerobot.processor import NormalizerProcessorStep, UnnormalizerProcessorStep

    # Words in config.json; the steps write them out again, and need the enums for that.
    modes = {FeatureType(kind): NormalizationMode(mode) for kind, mode in lerobot.normalization_mapping.items()}
    relative = _fit_relative(lerobot, preprocessor, postprocessor, embodiment)
    statistics = {feature: dict(numbers) for feature, numbers in fit_to(relative).items()}
    for pipeline, kind, features in (
        (preprocessor, NormalizerProcessorStep, {**lerobot.input_features, **lerobot.output_features}),
        (postprocessor, UnnormalizerProcessorStep, dict(lerobot.output_features)),
    ):
        for step in pipeline.steps:
            if isinstance(step, kind):
                step.features, step.norm_map = features, dict(modes)
                step.stats = statistics
                step.to()


def _fit_relative(lerobot: Any, preprocessor: Any, postprocessor: Any, embodiment: Embodiment) -> tuple[bool, ...]:
    """Set the steps that make actions relative, as LeRobot's own training does; return which entries are."""
    from lerobot.processor import AbsoluteActionsProcessorStep, RelativeActionsProcessorStep

    step = next((step for step in preprocessor.steps if isinstance(step, RelativeActionsProcessorStep)), None)
    back = next((step for step in postprocessor.steps if isinstance(step, AbsoluteActionsProcessorStep)), None)
    if getattr(lerobot, "use_relative_actions", False):
        if step is None or back is None:
            raise ConfigError(
                "use_relative_actions is True in the checkpoint's config.json, but its processors have no step that "
                "makes actions relative or absolute again: make them anew with LeRobot's `make_pre_post_processors`"
            )
        step.enabled = back.enabled = True
        step.exclude_joints = list(lerobot.relative_exclude_joints or ())
    size = embodiment.action_size
    if step is None or not step.enabled:
        return (False,) * size
    if embodiment.action_names:
        step.action_names = list(embodiment.action_names)
    elif len(step.action_names or ()) != size:
        step.action_names = None
    if step.exclude_joints and step.action_names is None:
        raise ConfigError(
            f"the checkpoint keeps {', '.join(step.exclude_joints)} absolute and makes other actions relative, "
            f"but the {size} actions of embodiment {embodiment.name!r} have no names: import data that names them, or "
            "set relative_exclude_joints to [] in the checkpoint's config.json"
        )
    if hasattr(lerobot, "action_feature_names"):
        lerobot.action_feature_names = step.action_names
    mask = tuple(step._build_mask(size))
    if size > embodiment.state_size:
        raise ConfigError(
            "the checkpoint's actions are relative to the state's entries of the same index, but embodiment "
            f"{embodiment.name!r} has {size} actions and a state of {embodiment.state_size}: set use_relative_actions "
            "to False in the checkpoint's config.json"
        )
    return mask
