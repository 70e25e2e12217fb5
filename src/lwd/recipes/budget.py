"""The sizes in which every recipe exists."""

from typing import Literal

Budget = Literal["smoke", "full", "large", "vla_smoke", "vla"]
"""A walk of the path; a demo on two cores; a day of a GPU; the first and the last of these for a pretrained VLA."""
