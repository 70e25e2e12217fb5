"""`--prefix-cache` with policies that have nothing to keep: refused, with the option and the reason."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from tests.unit.data.episodes import EMBODIMENT

from lwd.algos.config import LWDConfig
from lwd.algos.lwd import LWD
from lwd.algos.protocol import Algorithm
from lwd.algos.recap import Recap, RecapConfig
from lwd.algos.sft import SFT, SFTConfig
from lwd.cli.main import dispatch
from lwd.errors import ConfigError
from lwd.models.advantage import AdvantagePolicy
from lwd.models.critic import CriticConfig, ValueCritic
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.recipes.prefix_cache import PrefixCache, prefix_metrics

STATISTICS = StateStatistics(mean=(0.0,) * 4, std=(1.0,) * 4)


def small() -> SmallVLA:
    return SmallVLA(EMBODIMENT, VLAConfig(context_size=8, expert_width=8, expert_depth=1), STATISTICS)


def critic() -> ValueCritic:
    return ValueCritic(EMBODIMENT, CriticConfig(token_width=4, readout_size=8, width=8, num_atoms=11), STATISTICS, 5)


def sft() -> Algorithm:
    return SFT(small(), SFTConfig(), torch.Generator())


def lwd() -> Algorithm:
    policy = small()
    return LWD(policy, deepcopy(policy), critic(), LWDConfig(), torch.Generator())


def frozen_lwd() -> Algorithm:
    policy = small()
    return LWD(policy, deepcopy(policy), critic(), LWDConfig(train_backbone=False), torch.Generator())


def recap() -> Algorithm:
    return Recap(AdvantagePolicy(small(), 1.0), critic(), RecapConfig(round_updates=100), torch.Generator())


@pytest.mark.parametrize("algorithm", [sft, lwd, frozen_lwd, recap])
def test_a_small_policy_is_refused(algorithm: Callable[[], Algorithm], tmp_path: Path) -> None:
    cache = PrefixCache(gigabytes=2.5, directory=tmp_path / "prefixes")
    with pytest.raises(ConfigError, match=r"--prefix-cache is 2\.5 \(GB\), but SmallVLA has no frozen backbone"):
        cache.open_for(algorithm(), batch_size=1)
    assert not cache.directory.exists()


@pytest.mark.parametrize("verb", ["sft", "offline", "learner"])
def test_a_directory_alone_is_refused(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    assert dispatch([verb, "--run", str(tmp_path / "run"), "--prefix-directory", str(tmp_path)]) in (1, 78)
    assert "--prefix-directory is of --prefix-cache" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()


def test_without_a_table_nothing_is_reported() -> None:
    assert prefix_metrics(None) == {}
