"""Policy files from hostile hands: each is refused with its reason, before anything large is allocated."""

import json
import resource
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save

from lwd.errors import CheckpointError
from lwd.models.checkpoint import PolicyReader, base_of, load_policy, policy_bytes
from lwd.models.lerobot.limits import require_known

from ...hostile.policies import bad_files, bad_settings, bad_tensors, best_of, described, good_policy, rewritten

BAD = [*bad_settings(), *bad_tensors(), *bad_files()]


def test_the_good_files_are_good():
    assert load_policy(good_policy()).horizon == 5
    assert load_policy(best_of(2, 1)).samples == 2


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_policy_file_is_refused_before_memory_is_taken(bad):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun_s = time.process_time()
    with pytest.raises(CheckpointError, match=bad.reason):
        PolicyReader(lambda sha256: pytest.fail(f"asked for base {sha256}"))(bad.data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128 * 1024  # KiB
    assert time.process_time() - begun_s < 5.0


def test_a_hostile_base_is_not_asked_for():
    with pytest.raises(CheckpointError, match="base is"):
        base_of(rewritten(lambda metadata: metadata.update(base="../" * 8 + "etc/passwd")))
    with pytest.raises(CheckpointError, match="names a base and is no LeRobot policy"):
        PolicyReader(lambda _: b"")(rewritten(lambda metadata: metadata.update(base="0" * 64)))


def test_settings_that_an_earlier_version_left_out_are_its_defaults():
    data = rewritten(lambda metadata: metadata["config"].pop("flow_steps"))
    assert load_policy(data).flow_steps == 10


def test_a_loaded_policy_is_written_to_the_same_bytes():
    for data in (good_policy(), best_of(2, 1)):
        assert policy_bytes(load_policy(data)) == data


def lerobot_part(**changes):
    step = {"registry_name": "normalizer_processor", "config": {"eps": 1e-8}}
    policy = {"type": "pi05", "chunk_size": 50, "num_inference_steps": 10, "image_resolution": [224, 224]}
    policy |= {"input_features": {"observation.state": {"type": "STATE", "shape": [4]}}, "output_features": {}}
    return {
        "config": {},
        "lerobot": policy,
        "preprocessor": {"steps": [step]},
        "postprocessor": {"steps": []},
    } | changes


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("lerobot", {"type": "groot"}, "type is groot"),
        ("lerobot", {"num_inference_steps": 10**9}, "num_inference_steps is 1000000000"),
        ("lerobot", {"chunk_size": 0}, "chunk_size is 0"),
        ("lerobot", {"image_resolution": [224, 10**6]}, "image_resolution is 1000000"),
        ("lerobot", {"tokenizer_max_length": float("nan")}, "tokenizer_max_length is nan"),
        ("lerobot", {"input_features": {"x": {"shape": [3, 10**6, 10**6]}}}, "input_features.x.shape is 1000000"),
        ("preprocessor", {"steps": [{"class": "subprocess.Popen", "config": {"args": "id"}}]}, "is subprocess.Popen"),
        (
            "preprocessor",
            {"steps": [{"registry_name": "normalizer_processor", "class": "os.system"}]},
            "is os.system",
        ),
        (
            "postprocessor",
            {"steps": [{"registry_name": "action_tokenizer_processor"}]},
            "is action_tokenizer_processor",
        ),
        (
            "preprocessor",
            {"steps": [{"registry_name": "tokenizer_processor", "config": {"max_length": 10**9}}]},
            "max_length is 1000000000",
        ),
    ],
)
def test_a_lerobot_policy_names_no_code_and_no_number_beyond_its_limit(part, changes, message):
    good = lerobot_part()
    require_known(good, {"pi05": None})
    with pytest.raises(CheckpointError, match=message):
        require_known(good | {part: good[part] | changes}, {"pi05": None})


def test_a_policy_file_that_names_a_class_to_import_is_refused_without_lerobot():
    """As bytes that come from the store: LeRobot's reader would import whatever class the file names."""
    metadata, tensors = described(good_policy())
    del metadata["config"]
    metadata["lerobot"] = lerobot_part(preprocessor={"steps": [{"class": "subprocess.Popen", "config": {}}]})
    normalizer = {"state_normalizer.state_mean": torch.zeros(6), "state_normalizer.state_std": torch.ones(6)}
    data = save(
        normalizer | {"instruction_embeddings": tensors["instruction_embeddings"]}, {"lwd": json.dumps(metadata)}
    )
    with pytest.raises(CheckpointError, match=r"subprocess\.Popen"):
        load_policy(data)


def test_checking_a_large_file_costs_little():
    """What the checks add to 100 MB of weights is less than what loading them costs anyway."""
    data = best_of(1, 1, expert_width=60_000)
    assert len(data) > 60e6
    begun_s = time.process_time()
    load_policy(data)
    assert time.process_time() - begun_s < 20.0
    assert np.isfinite(np.frombuffer(data[-4:], np.float32)).all()
