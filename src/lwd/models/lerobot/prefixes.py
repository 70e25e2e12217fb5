"""Prefixes of a frozen backbone looked up instead of computed: a pure function of what the backbone reads.

A row is the keys and values of one prefix's tokens, without padding, in the type in which they were computed. Its key
is the hash of all that the backbone reads of the state (pixels, tokens of the prompt, the state where it is one), so no
row can be taken for another state's: neither when the replay grows or is cut, nor after a restart.
"""

import hashlib
import importlib.metadata
import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lwd.batch import ObservationBatch
from lwd.errors import ShapeError
from lwd.models.flow_policy import KeptRows
from lwd.models.lerobot.families import Prefix
from lwd.types import ByteArray

if TYPE_CHECKING:
    from lwd.models.lerobot.vla import LeRobotVLA

_NO_MATTER = ("pretrained_path", "optimizer_", "scheduler_")
"""Settings of LeRobot's by whose beginnings they are known not to be the network's."""


class LeRobotPrefix:
    """How the prefixes of a policy are kept (`lwd.models.flow_policy.FrozenPrefix`)."""

    def __init__(self, policy: "LeRobotVLA") -> None:
        self._policy = policy

    @property
    def row_bytes(self) -> int:
        policy, family = self._policy, self._policy._family
        longest = torch.ones(1, policy.processors.longest_prompt, dtype=torch.bool)
        tokens = int(family.pad_mask(policy.network, _image_sizes(policy), longest).sum())
        return tokens * family.shape(policy.network).numbers_per_token * _kept_in(policy).itemsize

    def fingerprint(self) -> str:
        from draccus import encode
        from lerobot.configs.policies import PreTrainedConfig

        policy = self._policy
        lerobot = encode(policy.network.config, PreTrainedConfig)
        described = {
            "lerobot": {name: value for name, value in lerobot.items() if not name.startswith(_NO_MATTER)},
            "preprocessor": policy.processors.preprocessor.get_config(),
            "images": policy._image_keys,
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "lerobot")},
        }
        found = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
        frozen = policy.frozen_names
        tensors = {name: tensor for name, tensor in policy.state_dict().items() if name in frozen}
        for step, state in policy.processors.preprocessor.state_dict().items():
            tensors |= {f"preprocessor/{step}/{name}": tensor for name, tensor in state.items()}
        for name, tensor in sorted(tensors.items()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(_bytes_of(tensor.detach()).data)
        return found.hexdigest()

    def keep_in(self, rows: KeptRows | None) -> None:
        self._policy.kept_rows = rows


def looked_up(policy: "LeRobotVLA", rows: KeptRows, observation: ObservationBatch, texts: list[str]) -> Prefix:
    """Return the prefixes of a batch; those that are not kept yet are computed in one pass, and kept.

    The result has the padding that a pass of the whole batch has, so that the expert meets the same shapes.

    Raises:
        ShapeError: if the backbone's prefix is not what its configuration says.
    """
    network, family, kept_in = policy.network, policy._family, _kept_in(policy)
    shape = family.shape(network)
    # Without the images: of them only the backbone makes anything.
    batch = policy.processors.observation({"observation.state": observation.state_BS}, texts)
    pad_mask_BL = family.pad_mask(network, _image_sizes(policy), batch[_prompt_names()[1]])
    mask_BL = pad_mask_BL.cpu()
    size, length = mask_BL.shape
    kv = torch.zeros(2 * shape.layers, size, shape.heads, length, shape.head_size, dtype=kept_in)

    def place(position: int, row: ByteArray) -> None:
        tokens = mask_BL[position].nonzero().squeeze(-1)
        numbers = torch.from_numpy(row).view(kept_in)
        numbers = numbers.view(2 * shape.layers, shape.heads, tokens.shape[0], shape.head_size)
        kv[:, position].index_copy_(2, tokens, numbers)

    missing: dict[bytes, list[int]] = {}
    for position, key in enumerate(_keys(policy, observation, batch)):
        row = None if key in missing else rows.get(key)
        if row is None:
            missing.setdefault(key, []).append(position)
        else:
            place(position, row)
    if missing:
        first = [positions[0] for positions in missing.values()]
        index = torch.tensor(first, device=observation.state_BS.device)
        images = policy.preprocessed(observation.rows(index), [texts[position] for position in first])
        # The prompts that the keys are of.
        computed = policy.read(images | {name: batch[name][index] for name in _prompt_names()})
        for (key, positions), row in zip(missing.items(), _rows_of(computed, mask_BL[first], kept_in), strict=True):
            for position in positions:
                place(position, row)
            rows.put(key, row)
    return Prefix(
        pad_mask_BL=pad_mask_BL,
        cache=_cache_of(kv.to(observation.state_BS.device)),
        state_BS=network.prepare_state(batch) if family.expert_reads_state else None,
    )


def _keys(policy: "LeRobotVLA", observation: ObservationBatch, batch: dict[str, Any]) -> list[bytes]:
    """The hash of what the backbone reads of each state, and of the type in which it computes."""
    tokens_BT, language_BT = (batch[name].cpu() for name in _prompt_names())
    images = [observation.images[camera].cpu() for camera in policy._image_keys]
    # As it was recorded: how it is normalised is in the fingerprint.
    state_BS = observation.state_BS.cpu() if policy._family.state_in_prefix else None
    keys = []
    for position in range(observation.size):
        prompt = tokens_BT[position][language_BT[position]].tolist()
        found = hashlib.sha256(json.dumps([policy.computes_prefix_in, prompt]).encode())
        if state_BS is not None:
            found.update(_bytes_of(state_BS[position]).data)
        for image in images:
            found.update(str(tuple(image.shape[1:])).encode())
            found.update(_bytes_of(image[position]).data)
        keys.append(found.digest())
    return keys


def _rows_of(prefix: Prefix, mask_BL: Tensor, kept_in: torch.dtype) -> list[ByteArray]:
    """Keys and values of each prefix's tokens, as bytes.

    Raises:
        ShapeError: if they are not what the backbone's configuration says.
    """
    pairs = [(keys, values) for keys, values, _ in prefix.cache]
    found = {tensor.dtype for pair in pairs for tensor in pair}
    if found != {kept_in} or not torch.equal(prefix.pad_mask_BL.sum(dim=1).cpu(), mask_BL.sum(dim=1)):
        raise ShapeError(
            f"the backbone made prefixes of {prefix.pad_mask_BL.sum(dim=1).tolist()} tokens in {found}, its "
            f"configuration says {mask_BL.sum(dim=1).tolist()} in {kept_in}: leave --prefix-cache out with this LeRobot"
        )
    # (2 layers, B, heads, L, D)
    kv = torch.stack([tensor for pair in pairs for tensor in pair]).cpu()
    return [_bytes_of(kv[:, row][:, :, mask]) for row, mask in enumerate(prefix.pad_mask_BL.cpu())]


def _cache_of(kv: Tensor) -> Any:
    from transformers import DynamicCache

    return DynamicCache(tuple((kv[layer], kv[layer + 1], None) for layer in range(0, kv.shape[0], 2)))


def _prompt_names() -> tuple[str, str]:
    """Of the prompts' tokens and their mask in a preprocessed batch."""
    from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS

    return OBS_LANGUAGE_TOKENS, OBS_LANGUAGE_ATTENTION_MASK


def _image_sizes(policy: "LeRobotVLA") -> list[tuple[int, int]]:
    return [policy.embodiment.cameras[camera] for camera in policy._image_keys]


def _kept_in(policy: "LeRobotVLA") -> torch.dtype:
    if policy.config.backbone_precision == "bfloat16":
        return torch.bfloat16
    return policy._family.kept_in(policy.precision)


def _bytes_of(tensor: Tensor) -> ByteArray:
    array: ByteArray = tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return array
