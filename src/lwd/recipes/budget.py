"""The sizes in which every recipe exists."""

from typing import Literal

Budget = Literal["smoke", "full", "large"]
"""A walk of the path; a demo on two cores; a day of a GPU."""
