"""D32: a second recording of the same robot was refused, 6 of 6: the first one's extremes were the limits."""

import numpy as np

from lwd.recipes.run_directory import RunDirectory

from .recordings import smooth, write
from .test_columns_by_count import dispatched, episodes


def test_a_second_recording_comes_in(tmp_path, capsys):
    for number, seeds in enumerate((range(6), range(100, 106))):
        actions = [smooth(seed) for seed in seeds]
        write(tmp_path / f"day-{number}", {"observation.state": actions, "action": actions})
        words = ("data", "import", "--lerobot", tmp_path / f"day-{number}", "--run", tmp_path / "run", "--all-success")
        assert "6 episodes committed, 6 success" in dispatched(capsys, *words)
    assert len(episodes(tmp_path / "run")) == 12


def test_one_that_goes_much_further_comes_in_together_or_widened(tmp_path, capsys):
    for name, scale in (("near", 1), ("far", 3)):
        actions = [scale * smooth(seed) for seed in range(3)]
        write(tmp_path / name, {"observation.state": actions, "action": actions})
    together = ("data", "import", "--lerobot", tmp_path / "near", tmp_path / "far", "--run", tmp_path / "both")
    assert "6 of 6 episodes would come in" in dispatched(capsys, *together, "--all-success", "--dry-run")
    assert "6 episodes committed" in dispatched(capsys, *together, "--all-success")
    highest = max(smooth(seed)[:, 0].max() for seed in range(3))
    assert RunDirectory(tmp_path / "both").embodiment().action_high[0] > 3 * highest
    words = ("--run", tmp_path / "run", "--all-success")
    dispatched(capsys, "data", "import", "--lerobot", tmp_path / "near", *words)
    far = ("data", "import", "--lerobot", tmp_path / "far", *words)
    said = dispatched(capsys, *far, "--dry-run")
    assert "outside the limits" in said
    assert "--widen-limits" in said
    assert "3 episodes committed" in dispatched(capsys, *far, "--widen-limits")
    assert len(episodes(tmp_path / "run")) == 6


def test_limits_of_a_run_with_policies_stay(tmp_path, capsys):
    actions = [smooth(0)]
    for name, scale in (("near", 1), ("far", 3)):
        write(tmp_path / name, {"observation.state": actions, "action": [scale * actions[0]]})
    words = ("--run", tmp_path / "run", "--all-success")
    dispatched(capsys, "data", "import", "--lerobot", tmp_path / "near", *words)
    before = RunDirectory(tmp_path / "run").embodiment()
    (tmp_path / "limits.json").write_text('{"0": [-1, 1]}')
    narrow = ("data", "import", "--lerobot", tmp_path / "far", *words, "--limits", tmp_path / "limits.json")
    assert "are narrower than the run's" in dispatched(capsys, *narrow, refused=True)
    (tmp_path / "run" / "checkpoints" / "sft").mkdir(parents=True)
    far = ("data", "import", "--lerobot", tmp_path / "far", *words, "--widen-limits")
    assert "has policies, which were trained for its limits" in dispatched(capsys, *far, refused=True)
    assert RunDirectory(tmp_path / "run").embodiment() == before


def test_datasets_whose_directories_share_a_name_do_not_share_episodes(tmp_path, capsys):
    for number in range(2):
        actions = [smooth(number)]
        write(tmp_path / f"day-{number}" / "cups", {"observation.state": actions, "action": actions})
    words = ("data", "import", "--lerobot", *(tmp_path / f"day-{number}" / "cups" for number in range(2)))
    assert "2 episodes committed" in dispatched(capsys, *words, "--run", tmp_path / "run", "--all-success")
    first, second = episodes(tmp_path / "run")
    assert not np.array_equal(first.actions_TA, second.actions_TA)
