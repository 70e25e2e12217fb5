"""A policy of another type (HIL-SERL's gaussian_actor), or one without its processors' files, ended in a traceback."""

import json
from pathlib import Path

import pytest
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.gaussian_actor.configuration_gaussian_actor import GaussianActorConfig

from lwd.errors import CheckpointError, ConfigError
from lwd.models.lerobot.files import chunk_size_of, load_lerobot, save_lerobot
from lwd.models.normalization import StateStatistics

from ...lerobot.tiny_vla import EMBODIMENT, tiny_vla

STATISTICS = StateStatistics(mean=(0.0,) * 4, std=(1.0,) * 4)


@pytest.mark.parametrize("kind", [ACTConfig, GaussianActorConfig])
def test_lerobots_other_policies_are_refused_by_their_type(kind: type, tmp_path: Path) -> None:
    kind(device="cpu")._save_pretrained(tmp_path)
    # Nothing else is there: neither weights nor processors are looked for first.
    for read in (chunk_size_of, lambda source: load_lerobot(source, EMBODIMENT, STATISTICS)):
        with pytest.raises(ConfigError, match=r"type is '(act|gaussian_actor)'.*smolvla, pi05, pi0"):
            read(str(tmp_path))


@pytest.mark.parametrize("content", ['{"type": "of tomorrow"}', "{}", "[]", '{"type": ["pi0"]}', '{"type": null}'])
def test_a_type_that_lerobot_does_not_know_is_refused_likewise(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json; LWD trains.*smolvla, pi05, pi0"):
        chunk_size_of(str(tmp_path))


@pytest.mark.parametrize(
    "content", ["", "{", '{"type": "pi0", "no_such_field": 1}', '{"type": "pi0", "chunk_size": "many"}']
)
def test_a_damaged_configuration_is_an_error_with_its_reason(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match="cannot read LeRobot's checkpoint"):
        chunk_size_of(str(tmp_path))


@pytest.mark.parametrize(
    ("setting", "error"), [("use_delta_joint_actions_aloha", CheckpointError), ("adapt_to_pi_aloha", ConfigError)]
)
def test_settings_that_nobody_keeps_are_refused(setting: str, error: type[Exception], tmp_path: Path) -> None:
    save_lerobot(tiny_vla("smolvla", tmp_path / "tokens"), tmp_path / "saved")
    path = tmp_path / "saved" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {setting: True}))
    (tmp_path / "saved" / "model.safetensors").unlink()
    with pytest.raises(error, match=setting):
        load_lerobot(str(tmp_path / "saved"), EMBODIMENT, STATISTICS)


@pytest.mark.parametrize("name", ["policy_preprocessor.json", "policy_postprocessor.json"])
@pytest.mark.parametrize("content", [None, "", "{}", "[]"])
def test_processor_files_that_are_missing_or_damaged_are_named(name: str, content: str | None, tmp_path: Path) -> None:
    save_lerobot(tiny_vla("pi05", tmp_path / "tokens"), tmp_path / "saved")
    (tmp_path / "saved" / "model.safetensors").unlink()
    (tmp_path / "saved" / name).unlink()
    if content is not None:
        (tmp_path / "saved" / name).write_text(content)
    with pytest.raises(CheckpointError, match=rf"{name}.*make_pre_post_processors"):
        load_lerobot(str(tmp_path / "saved"), EMBODIMENT, STATISTICS)


def test_statistics_that_are_missing_are_named(tmp_path: Path) -> None:
    save_lerobot(tiny_vla("pi05", tmp_path / "tokens"), tmp_path / "saved")
    for path in (tmp_path / "saved").glob("policy_preprocessor_*.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"policy_preprocessor_.*make_pre_post_processors"):
        load_lerobot(str(tmp_path / "saved"), EMBODIMENT, STATISTICS)
