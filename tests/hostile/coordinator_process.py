"""Run the real coordinator for the hostile corpus.

    python coordinator_process.py RUN [--crash-on EPISODE]

With --crash-on the process ends by a segmentation fault while it validates that episode.
"""

import ctypes
import logging
import sys
from pathlib import Path

from lwd.data.validation import EpisodeLimits
from lwd.fleet import judging
from lwd.fleet.coordinator_process import CoordinatorConfig, run_coordinator
from lwd.types import Embodiment, TokenSpec

# As tests/unit/data/episodes.py has it; a script cannot import from the test packages.
EMBODIMENT = Embodiment(
    name="toy",
    control_hz=10.0,
    state_tokens=(TokenSpec(name="all", size=4),),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    cameras={"wrist": (6, 8)},
)


def crash_on(name: str) -> None:
    validate = judging.validate_episode

    def crashing(data, limits):
        if f'"episode_id":"{name}"'.encode() in data:
            ctypes.string_at(0)
        return validate(data, limits)

    judging.validate_episode = crashing


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", force=True)
    if sys.argv[2:]:
        crash_on(sys.argv[3])
    limits = EpisodeLimits(embodiment=EMBODIMENT, max_steps=1000)
    run_coordinator(CoordinatorConfig(run=Path(sys.argv[1]), limits=limits, reconcile_s=0.5, linger_s=0.05))
