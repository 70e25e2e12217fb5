"""The two sizes in which every recipe exists."""

from typing import Literal

Budget = Literal["smoke", "full"]
