"""Fixes the order of imports: lwd chooses MuJoCo's renderer before mujoco reads that choice."""

import lwd.robots.sim  # noqa: F401
