"""What a policy file may ask of LeRobot: which of its processor steps, and numbers up to a limit.

LeRobot's own reader imports any class that a file names, and one of its steps runs code of a hub repository. Only
steps by their registered names are let through, and only those that the policies of LWD's families are made with.
"""

from collections.abc import Mapping
from typing import Any

from lwd.errors import CheckpointError
from lwd.models.file_settings import MAX_FLOW_STEPS, MAX_HORIZON

_PARTS = {"config", "lerobot", "preprocessor", "postprocessor"}
_STEPS = frozenset(
    {
        *("rename_observations_processor", "to_batch_processor", "device_processor"),
        *("normalizer_processor", "unnormalizer_processor", "tokenizer_processor"),
        *("relative_actions_processor", "absolute_actions_processor"),
        *("smolvla_new_line_processor", "pi0_new_line_processor", "pi05_prepare_state_tokenizer_processor_step"),
    }
)
_NUMBERS: Mapping[str, tuple[float, float]] = {
    "chunk_size": (1, MAX_HORIZON),
    "n_action_steps": (1, MAX_HORIZON),
    "n_obs_steps": (1, 64),
    "num_steps": (1, MAX_FLOW_STEPS),
    "num_inference_steps": (1, MAX_FLOW_STEPS),
    "max_state_dim": (1, 4096),
    "max_action_dim": (1, 4096),
    "tokenizer_max_length": (1, 4096),
    "resize_imgs_with_padding": (1, 4096),
    "image_resolution": (1, 4096),
    "empty_cameras": (0, 64),
    "prefix_length": (-1, 65_536),
    "num_vlm_layers": (-1, 256),
    "num_expert_layers": (-1, 256),
    "self_attn_every_n_layers": (-1, 256),
    "expert_width_multiplier": (0.01, 16),
}
_MAX_FEATURES = 256
_MAX_SIZE = 65_536
_MAX_PROMPT = 4096


def require_known(description: Mapping[str, Any], families: Mapping[str, object]) -> None:
    """Check what `lwd.models.lerobot.files.described` wrote, before LeRobot sees it.

    Args:
        families: policy types that LWD has an adapter for.
    Raises:
        CheckpointError: naming field and value.
    """
    if description.keys() != _PARTS:
        raise _refused("lerobot", sorted(description), f"a policy file has {', '.join(sorted(_PARTS))}")
    policy = _table("lerobot", description["lerobot"])
    if policy.get("type") not in families:
        raise _refused("type", policy.get("type"), f"LWD has adapters for {', '.join(families)}")
    for field, (low, high) in _NUMBERS.items():
        _require_number(field, policy.get(field), low, high)
    for group in ("input_features", "output_features"):
        features = _table(group, policy.get(group))
        if len(features) > _MAX_FEATURES:
            raise _refused(group, len(features), f"at most {_MAX_FEATURES}")
        for name, feature in features.items():
            _require_number(f"{group}.{name}.shape", _table(name, feature).get("shape"), 1, _MAX_SIZE)
    for pipeline in ("preprocessor", "postprocessor"):
        _require_steps(pipeline, _table(pipeline, description[pipeline]))
    _table("config", description["config"])


def _require_steps(pipeline: str, description: dict[str, Any]) -> None:
    steps = description.get("steps")
    if not isinstance(steps, list) or len(steps) > len(_STEPS):
        raise _refused(f"{pipeline}.steps", steps, f"a list of at most {len(_STEPS)}")
    for step in steps:
        name = _table(pipeline, step).get("registry_name")
        if "class" in step or not isinstance(name, str) or name not in _STEPS:
            raise _refused(f"{pipeline}.steps", step.get("class", name), f"known are {', '.join(sorted(_STEPS))}")
        settings = _table(name, step.get("config", {}))
        _require_number(f"{name}.max_length", settings.get("max_length"), 1, _MAX_PROMPT)


def _require_number(field: str, value: Any, low: float, high: float) -> None:
    """A number, or a list of them; a field that is not there is LeRobot's default."""
    if value is None:
        return
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, bool) or not isinstance(number, int | float) or not low <= number <= high:
            raise _refused(field, number, f"it must lie in [{low:g}, {high:g}]")


def _table(field: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refused(field, value, "it must be a table")
    return value


def _refused(field: str, value: object, why: str) -> CheckpointError:
    return CheckpointError(
        f"the policy file's lerobot part: {field} is {str(value)[:80]} ({why}): write the file again"
    )
