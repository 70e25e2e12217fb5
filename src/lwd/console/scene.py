"""`python -m lwd.console.scene` writes the simulated scene's description to standard output, and ends."""

import sys

from lwd.robots.sim.drawing import scene_description

if __name__ == "__main__":
    sys.stdout.buffer.write(scene_description())
