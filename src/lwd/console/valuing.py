"""What robots' present states are worth: `python -m lwd.console.valuing RUN`, a process of its own beside the console.

It answers each line on standard input, `{"robots": [{"embodiment", "state", "instruction"}, ...]}`, with a line on
standard output, `{"values": [number or null, ...], "of", "note"}`, and ends with its input. The numbers are the means
of the value distributions by the newest checkpoint; the note says why there are none.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from lwd.batch import ObservationBatch
from lwd.errors import LWDError
from lwd.models.checkpoint import load_policy, load_value
from lwd.models.critic import ValueCritic
from lwd.models.instruction import InstructionEncoder
from lwd.recipes.reporting import VALUED_STAGES, newest_valued
from lwd.recipes.run_directory import RunDirectory

_LOOK_EVERY_S = 10.0
_NONE_YET = "no checkpoint of this run has a value network yet"


class Valuer:
    """The newest value network of a run."""

    def __init__(self, run: RunDirectory, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._clock = clock
        self._next_look_s = -float("inf")
        self._newest: list[Path | None] = []
        self._network: ValueCritic | None = None
        self._instructions = InstructionEncoder()
        self._of = ""
        self._note = _NONE_YET

    def answer(self, robots: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the answer to one question; null for a robot that the network was not trained for."""
        if self._clock() >= self._next_look_s:
            self._next_look_s = self._clock() + _LOOK_EVERY_S
            self._look()
        values: list[float | None] = [None] * len(robots)
        network = self._network
        if network is not None:
            robot = network.embodiment
            fit = [
                index
                for index, each in enumerate(robots)
                if each["embodiment"] == robot.name and len(each["state"]) == robot.state_size
            ]
            if fit:
                try:
                    found = self._values(network, [robots[index] for index in fit])
                except (RuntimeError, ValueError, TypeError) as error:
                    # What a robot says of itself must not take the values of all others away for long.
                    return {"values": values, "of": self._of, "note": f"no values of what robots sent ({error})"[:500]}
                for index, value in zip(fit, found, strict=True):
                    # A network that diverged says no number, and JSON has no word for it.
                    values[index] = value if math.isfinite(value) else None
        return {"values": values, "of": self._of, "note": self._note}

    def _look(self) -> None:
        """Load the newest checkpoint's network, if there is another than before."""
        newest = [self._run.checkpoints(stage).newest_path() for stage in VALUED_STAGES]
        if newest == self._newest:
            return
        try:
            if self._run.embodiment().cameras:
                # Its checkpoints are not even read: they may be of billions of weights.
                self._newest, self._note = newest, "the value network looks at pictures, which are not sent for this"
                return
            checkpoint = newest_valued(self._run)
            if checkpoint is None:
                return
            network = load_value(checkpoint.value_path)
            self._instructions = load_policy(checkpoint.policy_path).instructions
        except LWDError as error:
            # A checkpoint may be removed while it is read; the one before stays in use.
            self._note = str(error)
            return
        self._newest, self._network, self._note = newest, network, ""
        self._of = f"{checkpoint.progress.stage}, update {checkpoint.progress.update}"

    @torch.inference_mode()
    def _values(self, network: ValueCritic, robots: Sequence[dict[str, Any]]) -> list[float]:
        observation = ObservationBatch(
            state_BS=torch.tensor([each["state"] for each in robots], dtype=torch.float32),
            instruction_BE=torch.stack([torch.from_numpy(self._instructions(each["instruction"])) for each in robots]),
        )
        return network.value(network.encode(observation)).tolist()


def main() -> None:
    """Answer until the input ends."""
    # The learner and the robots go first.
    os.nice(10)
    torch.set_num_threads(1)
    valuer = Valuer(RunDirectory(Path(sys.argv[1])))
    for line in sys.stdin:
        print(json.dumps(valuer.answer(json.loads(line)["robots"])), flush=True)


if __name__ == "__main__":
    main()
