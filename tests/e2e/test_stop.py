"""All robots are stopped by key and button in a real browser, and released (`make e2e`).

Set LWD_E2E_PICTURES to a directory to keep the screenshots.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .test_any_robot import WEB, run, url

pytestmark = pytest.mark.e2e
__all__ = ["run", "url"]


def test_stop_by_key_and_button_is_confirmed_and_released(run, url, tmp_path):
    pictures = Path(os.environ.get("LWD_E2E_PICTURES", tmp_path))
    pictures.mkdir(parents=True, exist_ok=True)
    result = subprocess.run(
        ["node", "e2e/stop.mjs", url, str(pictures)],
        cwd=WEB,
        env={**os.environ, "LWD_LINKS_OF": str(run), "LWD_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr + result.stdout
    measured = json.loads(result.stdout)
    assert measured["robot"].startswith("stopped by local")
    assert measured["other"].startswith("STOPPED by local since")
    audit = [json.loads(line)["what"] for line in (run / "console" / "audit.jsonl").read_text().splitlines()]
    assert [what for what in audit if what.startswith("stop")] == ["stop", "stop released"] * 2
