"""LeRobot checkpoints in and out: a directory or hub id of LeRobot's, or LWD's one safetensors file for the fleet."""

import json
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from lwd.commands import missing_extra
from lwd.errors import CheckpointError, ConfigError
from lwd.models.instruction import InstructionEncoder
from lwd.models.lerobot.adapters import AdaptedVLA
from lwd.models.lerobot.families import FAMILIES, family_of, require_family
from lwd.models.lerobot.fitting import Measure, fit_features, fit_processors
from lwd.models.lerobot.limits import require_known
from lwd.models.lerobot.processors import Processors
from lwd.models.lerobot.vla import LeRobotVLA, LeRobotVLAConfig
from lwd.models.normalization import StateStatistics
from lwd.types import Embodiment

if TYPE_CHECKING:
    from collections.abc import Iterator


def load_lerobot(
    source: str,
    embodiment: Embodiment,
    statistics: StateStatistics,
    *,
    config: LeRobotVLAConfig | None = None,
    horizon: int | None = None,
    fit_to: Measure | None = None,
    instructions: InstructionEncoder | None = None,
) -> LeRobotVLA:
    """Load a policy that LeRobot saved.

    Args:
        source: a directory, or an id of the hub.
        statistics: of states, for the critic.
        horizon: H, control steps per chunk; None: the checkpoint's.
        fit_to: measures the data that it will be fine-tuned on. Its features and normalisation then become the
            embodiment's, as in LeRobot's own fine-tuning of a base model; None keeps the checkpoint's.
    Raises:
        CheckpointError: if there is no such checkpoint.
        ConfigError: if LWD has no adapter for it, or it does not fit the embodiment.
    """
    lerobot = _lerobot_config(source)
    from lerobot.policies.factory import get_policy_class

    family_of(lerobot)
    if horizon is not None:
        lerobot.chunk_size = lerobot.n_action_steps = horizon
    if fit_to is not None:
        fit_features(lerobot, embodiment, config or LeRobotVLAConfig())
    # Before the network, which takes minutes: what is missing or does not fit is said at once.
    preprocessor, postprocessor = _processors_of(source, lerobot)
    if fit_to is not None:
        fit_processors(lerobot, preprocessor, postprocessor, embodiment, fit_to)
    processors = Processors(preprocessor, postprocessor)
    if not processors.has_statistics:
        raise ConfigError(
            f"checkpoint {source} has no statistics of actions to normalise with: fit it to the run's data"
        )
    network = get_policy_class(lerobot.type).from_pretrained(source, config=lerobot)
    return LeRobotVLA(network, processors, embodiment, statistics, config, instructions)


def chunk_size_of(source: str) -> int:
    """Return the control steps per chunk of a checkpoint of LeRobot's.

    Raises:
        CheckpointError: if there is no such checkpoint.
        ConfigError: if LeRobot is not installed, or LWD has no adapter for the policy.
    """
    return int(_lerobot_config(source).chunk_size)


def save_lerobot(policy: LeRobotVLA, directory: Path) -> None:
    """Write a checkpoint that LeRobot's own tools load: configuration, weights, processors."""
    policy = _without_adapters(policy)
    policy.network.save_pretrained(directory)
    policy.processors.preprocessor.save_pretrained(directory)
    policy.processors.postprocessor.save_pretrained(directory)


def described(policy: LeRobotVLA) -> dict[str, Any]:
    """Return what a policy file says about a LeRobot policy beside its tensors, as plain data."""
    import draccus
    from lerobot.configs.policies import PreTrainedConfig

    return {
        "config": asdict(policy.config),
        "lerobot": draccus.encode(policy.network.config, PreTrainedConfig),
        "preprocessor": policy.processors.preprocessor.get_config(),
        "postprocessor": policy.processors.postprocessor.get_config(),
    }


def tensors_of(policy: LeRobotVLA) -> dict[str, torch.Tensor]:
    """Return all tensors of a policy: its network's, each only once where two names share one, and its processors'."""
    policy = _without_adapters(policy)
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in policy.state_dict().items():
        if tensor.data_ptr() not in seen or not tensor.numel():
            seen.add(tensor.data_ptr())
            tensors[name] = tensor
    for pipeline in ("preprocessor", "postprocessor"):
        for step, state in getattr(policy.processors, pipeline).state_dict().items():
            tensors |= {f"{pipeline}/{step}/{name}": tensor for name, tensor in state.items()}
    return tensors


def rebuilt(
    description: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    embodiment: Embodiment,
    statistics: StateStatistics,
    instructions: InstructionEncoder,
) -> LeRobotVLA:
    """Return the policy that `described` and `tensors_of` were made of.

    Raises:
        CheckpointError: if a tensor is missing, or the description asks for what no policy of ours needs.
        ConfigError: if LeRobot is not installed.
    """
    require_known(description, FAMILIES)
    with _needs_lerobot():
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.policies.factory import get_policy_class
        from lerobot.processor import PolicyProcessorPipeline
        from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "config.json").write_text(json.dumps({**description["lerobot"], "device": "cpu"}))
        lerobot = PreTrainedConfig.from_pretrained(directory)
    states: dict[str, dict[str, dict[str, torch.Tensor]]] = {"preprocessor": {}, "postprocessor": {}}
    for name in filter(is_processor, list(tensors)):
        # A statistic's name holds a camera's (observation.images.pixels.top.mean).
        pipeline, step, entry = name.split("/", 2)
        states[pipeline].setdefault(step, {})[entry] = tensors.pop(name)
    preprocessor = PolicyProcessorPipeline.from_config(
        description["preprocessor"],
        state_dict=states["preprocessor"],
        overrides={"device_processor": {"device": "cpu"}},
    )
    postprocessor = PolicyProcessorPipeline.from_config(
        description["postprocessor"],
        state_dict=states["postprocessor"],
        to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )
    settings = description["config"]
    config = LeRobotVLAConfig(**{**settings, "camera_keys": tuple(map(tuple, settings["camera_keys"]))})
    policy = LeRobotVLA(
        get_policy_class(lerobot.type)(lerobot),
        Processors(preprocessor, postprocessor),
        embodiment,
        statistics,
        config,
        instructions,
    )
    load_tensors(policy, tensors)
    return policy


def is_processor(name: str) -> bool:
    """Whether a tensor of `tensors_of` is a processor's, not the network's."""
    return name.startswith(("preprocessor/", "postprocessor/"))


def load_tensors(policy: LeRobotVLA, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load a network's tensors; a name that shares another one's tensor may be missing.

    Raises:
        CheckpointError: if any other is missing, or one is too many.
    """
    missing, unexpected = policy.load_state_dict(tensors, strict=False)
    own = policy.state_dict()
    loaded = {own[name].data_ptr() for name in tensors if name in own}
    lacking = [name for name in missing if own[name].data_ptr() not in loaded]
    if lacking or unexpected:
        raise CheckpointError(
            f"the policy file does not fit LeRobot's {policy.network.config.type}: {len(lacking)} tensors are missing "
            f"({', '.join(lacking[:3])}), {len(unexpected)} are unknown ({', '.join(unexpected[:3])}): "
            "use the LeRobot version that it was made with"
        )


def _without_adapters(policy: LeRobotVLA) -> LeRobotVLA:
    return policy.merged() if isinstance(policy, AdaptedVLA) else policy


def _processors_of(source: str, lerobot: Any) -> tuple[Any, Any]:
    """Load the checkpoint's pre- and postprocessor, on the CPU.

    Raises:
        CheckpointError: if one is missing or cannot be read.
    """
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot.processor.pipeline import ProcessorMigrationError

    names = ("policy_preprocessor.json", "policy_postprocessor.json")
    remedy = (
        "make them with LeRobot's lerobot/processor/migrate_policy_normalization.py, or save the policy with "
        "LeRobot 0.6's `make_pre_post_processors`"
    )
    missing = [name for name in names if Path(source).is_dir() and not Path(source, name).is_file()]
    if missing:
        raise CheckpointError(f"checkpoint {source} has no {' and no '.join(missing)}: {remedy}")
    device = {"device_processor": {"device": "cpu"}}
    try:
        preprocessor, postprocessor = make_pre_post_processors(
            lerobot, pretrained_path=source, preprocessor_overrides=device, postprocessor_overrides=device
        )
    except (OSError, ValueError, KeyError, SafetensorError, ProcessorMigrationError) as error:
        raise CheckpointError(f"cannot read {' or '.join(names)} of checkpoint {source} ({error}): {remedy}") from error
    return preprocessor, postprocessor


def _lerobot_config(source: str) -> Any:
    """Read the checkpoint's configuration.

    Raises:
        CheckpointError: if there is none, or LeRobot cannot read it.
        ConfigError: if LWD has no adapter for its type.
    """
    with _needs_lerobot():
        from draccus.utils import DecodingError
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.policies import factory  # noqa: F401  # registers the policies' configurations
    try:
        if (local := Path(source, "config.json")).is_file():
            # Before the rest is parsed: that of another type may need what is not installed.
            settings = json.loads(local.read_text())
            require_family(settings.get("type") if isinstance(settings, dict) else None, str(local))
        config = PreTrainedConfig.from_pretrained(source)
    except (OSError, ValueError, DecodingError, NotImplementedError) as error:
        raise CheckpointError(
            f"cannot read LeRobot's checkpoint {source} ({error}): give its directory or id"
        ) from error
    require_family(config.type, f"config.json of {source}")
    config.device = "cpu"
    return config


@contextmanager
def _needs_lerobot() -> "Iterator[None]":
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            missing_extra("a policy of LeRobot's", f"lerobot ({error})", ["learner", "lerobot"])
        ) from error
