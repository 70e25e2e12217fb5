"""LeRobot's vision-language-action models as policies that LWD trains (extra `lerobot`, Python 3.12)."""
