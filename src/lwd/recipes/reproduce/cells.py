"""Cells of the experiment, and the keys that say what a cell's result depends on.

A key is the SHA-256 of everything that determines the result: stage, method, settings of the recipe's part, seed,
world, fleet, evaluation, and the keys of the cells that it starts from. Not in it: threads, device and the code.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

CellStage = Literal["data", "sft", "offline", "online", "evaluate"]
Cores = Literal["one", "all"]

CORES: dict[CellStage, Cores] = {"data": "all", "sft": "one", "offline": "one", "online": "all", "evaluate": "all"}
"""Small networks gain nothing from a second core; simulation uses what there is."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One piece of work."""

    stage: CellStage
    method: str
    seed: int
    settings: Mapping[str, Any]
    """Plain data: what the recipe says about this stage, and the stage's own parameters."""
    parents: tuple["Cell", ...] = ()
    """Cells whose results this one starts from."""
    level_from: "Cell | None" = None
    """The run whose mean quantile level this one holds constant."""
    of: Literal["sft", "offline", "online"] | None = None
    """Of an evaluation: the stage whose policy is evaluated."""
    robots: int = 0
    env_steps: int = 0
    suffix: str = field(default="", compare=False)
    """Of the name: tells apart cells that differ in the fleet alone."""

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """What the key is the hash of."""
        return {
            "stage": self.stage,
            "of": self.of,
            "method": self.method,
            "seed": self.seed,
            "robots": self.robots,
            "env_steps": self.env_steps,
            "settings": dict(self.settings),
            "parents": [parent.key for parent in self.parents],
            "level_from": None if self.level_from is None else self.level_from.key,
        }

    @cached_property
    def key(self) -> str:
        """64 hexadecimal digits."""
        canonical = json.dumps(self.inputs, sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def name(self) -> str:
        """For people; the key tells cells apart."""
        if self.stage == "data":
            return f"data-seed{self.seed}"
        stage = self.of or self.stage
        return f"{self.method}{'' if stage == self.method else f'-{stage}'}{self.suffix}-seed{self.seed}"

    @property
    def label(self) -> str:
        """For progress and errors: the name, with what is done."""
        return f"{'evaluate' if self.stage == 'evaluate' else 'train'} {self.name}" if self.stage != "data" else "data"

    @property
    def directory(self) -> str:
        """Name of its directory below ROOT."""
        return f"{self.stage if self.of is None else f'evaluate-{self.of}'}-{self.method}-s{self.seed}-{self.key[:12]}"

    @property
    def needs(self) -> tuple["Cell", ...]:
        """Cells that must be done before this one."""
        return self.parents if self.level_from is None else (*self.parents, self.level_from)

    @property
    def cores(self) -> Cores:
        return CORES[self.stage]

    def ancestor(self, stage: CellStage) -> "Cell | None":
        """Return the nearest cell of a stage that this one starts from, directly or not; the cell itself counts."""
        if self.stage == stage:
            return self
        return next((found for parent in self.parents if (found := parent.ancestor(stage)) is not None), None)
