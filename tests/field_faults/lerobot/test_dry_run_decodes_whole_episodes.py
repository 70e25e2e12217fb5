"""D34: a dry run seeks the two frames that it looks at; asked for together, everything between them is decoded."""

from tests.lerobot.datasets import make_dataset

import lwd.data.lerobot.source as source_module
from lwd.cli.main import dispatch


def test_single_frames_are_sought(tmp_path, monkeypatch):
    make_dataset(tmp_path / "made", cameras=("front", "wrist"), success=(True, True, True))
    asked: list[list[float]] = []
    decode = source_module.decode_video_frames

    def noted(path, times_s, *more, **others):
        asked.append(list(times_s))
        return decode(path, times_s, *more, **others)

    monkeypatch.setattr(source_module, "decode_video_frames", noted)
    words = ["data", "import", "--lerobot", str(tmp_path / "made"), "--run", str(tmp_path / "run"), "--all-success"]
    assert dispatch([*words, "--dry-run"]) == 0
    assert [len(times_s) for times_s in asked] == [1] * 12  # first and last, of three episodes and two cameras
    asked.clear()
    assert dispatch(words) == 0
    # The import decodes runs of frames, after the same look at single ones.
    assert max(map(len, asked)) > 1
