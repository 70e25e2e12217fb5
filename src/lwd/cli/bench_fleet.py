"""Environment steps per second of a robot host, against the bare simulator's on the same starts and actions.

The host does everything a fleet's host does: batched policy inference, sessions, recording, spool, upload, message bus.
"""

from typing import Annotated

import torch
import tyro

from lwd.recipes.bench_fleet import bench_entries, measure_fleet
from lwd.recipes.bench_result import print_entries


def run(
    robots: Annotated[int, tyro.conf.arg(help="simulated robots of the host")] = 16,
    episodes: Annotated[int, tyro.conf.arg(help="episodes of a round, 60 to 400 control steps each")] = 64,
    rounds: Annotated[int, tyro.conf.arg(help="rounds of host and bare simulator; the best of each counts")] = 2,
) -> None:
    # As every robot host does: one thread for the small networks.
    torch.set_num_threads(1)
    print_entries(bench_entries(measure_fleet(robots=robots, episodes=episodes, rounds=rounds)))
