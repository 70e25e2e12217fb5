"""Faults that need LeRobot (Python 3.12) to be seen; elsewhere they are not collected."""

import importlib.util

if importlib.util.find_spec("lerobot") is None:
    collect_ignore_glob = ["test_*.py"]
