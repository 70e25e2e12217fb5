"""LeRobotDataset <-> episodes. Only `source.py` and `exporting.py` load LeRobot (the extra `lerobot`)."""
