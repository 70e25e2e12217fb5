"""The checkpoint's own pre- and postprocessing, seen as functions of tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lwd.errors import CheckpointError, ConfigError
from lwd.types import Embodiment


class Processors:
    """LeRobot's two pipelines of a policy, and the steps in them that change actions.

    Normalisation, relative actions and the prompt's wording are those of the checkpoint; nothing is done anew here.
    """

    def __init__(self, preprocessor: Any, postprocessor: Any) -> None:
        """
        Raises:
            CheckpointError: if the preprocessor does not normalise, as no processor of these policies does.
        """
        from lerobot.processor import NormalizerProcessorStep, RelativeActionsProcessorStep, UnnormalizerProcessorStep

        self.preprocessor, self.postprocessor = preprocessor, postprocessor
        self._normalize = _step(preprocessor, NormalizerProcessorStep)
        self._unnormalize = _step(postprocessor, UnnormalizerProcessorStep)
        relative = [step for step in preprocessor.steps if isinstance(step, RelativeActionsProcessorStep)]
        self.can_be_relative = bool(relative)
        """Whether there is a step that makes actions relative to the state, be it switched on or not."""
        self._relative = next((step for step in relative if step.enabled), None)

    @property
    def has_statistics(self) -> bool:
        """Whether actions are normalised by the checkpoint."""
        return "action" in (self._normalize.stats or {})

    def relative_columns(self, embodiment: Embodiment) -> tuple[bool, ...]:
        """Return for each action entry whether it is normalised relative to the state; () if none is.

        Raises:
            ConfigError: if a relative entry has no state entry to be relative to.
        """
        if self._relative is None:
            return ()
        columns = tuple(map(bool, self._relative._build_mask(embodiment.action_size)))
        if embodiment.state_size < embodiment.action_size:
            raise ConfigError(
                f"the checkpoint's actions are relative to the state, but embodiment {embodiment.name!r} has "
                f"{embodiment.action_size} actions and {embodiment.state_size} state entries: record each joint's state"
            )
        return columns

    @property
    def longest_prompt(self) -> int:
        """Tokens that a prompt is cut to."""
        from lerobot.processor import TokenizerProcessorStep

        return int(_step(self.preprocessor, TokenizerProcessorStep).max_length)

    def observation(self, items: Mapping[str, Tensor], texts: Sequence[str]) -> dict[str, Any]:
        """Preprocess B observations and their instructions into what LeRobot's policies read."""
        device = items["observation.state"].device
        # Copies: pipelines may write into what they are given.
        batch = self.preprocessor({**{key: tensor.clone() for key, tensor in items.items()}, "task": list(texts)})
        return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}

    def normalized_action(self, action_BHA: Tensor, state_BS: Tensor) -> Tensor:
        """Physical units -> the checkpoint's, (B, H, A); relative to the state where the checkpoint says so."""
        from lerobot.processor.relative_action_processor import to_relative_actions

        if self._relative is not None:
            action_BHA = to_relative_actions(action_BHA, state_BS, self._relative._build_mask(action_BHA.shape[-1]))
        normalized: Tensor = self._normalize._normalize_action(action_BHA, inverse=False)
        return normalized

    def physical_action(self, normalized_BHA: Tensor, state_BS: Tensor) -> Tensor:
        """The checkpoint's units -> physical ones, (B, H, A), differentiable."""
        from lerobot.processor.relative_action_processor import to_absolute_actions

        physical: Tensor = self._unnormalize._normalize_action(normalized_BHA, inverse=True)
        if self._relative is not None:
            physical = to_absolute_actions(physical, state_BS, self._relative._build_mask(physical.shape[-1]))
        return physical


def _step(pipeline: Any, kind: type) -> Any:
    found = [step for step in pipeline.steps if isinstance(step, kind)]
    if len(found) != 1:
        raise CheckpointError(
            f"the checkpoint's processor {pipeline.name!r} has {len(found)} steps of type {kind.__name__}, not one: "
            "make it anew with LeRobot's `make_pre_post_processors`"
        )
    return found[0]
