"""What the value network expects along an episode: its distribution over time, under a film strip.

After the paper's Figs. 6 and 9. `value_trace` computes the distributions from a learner's value network;
value_episodes.py picks the episodes and finds their frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor

from lwd.batch import ObservationBatch
from lwd.errors import ShapeError
from lwd.evaluation.svg import INK, MUTED, SERIES, Canvas, Drawing
from lwd.types import ByteArray, Controller, Episode, Outcome

FRAMES = 8

# Transparent to blue: legible on a light and on a dark page.
_HEAT = LinearSegmentedColormap.from_list("heat", [(0.16, 0.47, 0.84, 0.0), (0.16, 0.47, 0.84, 1.0)])
_OUTCOMES = {
    Outcome.SUCCESS: "success",
    Outcome.FAILURE: "failure",
    Outcome.TIME_LIMIT: "failure (time limit)",
    Outcome.TRUNCATED: "cut short, outcome unknown",
    Outcome.UNLABELLED: "not labelled",
}


class ValueNetwork(Protocol):
    """What a learner's checkpoint gives for figures."""

    def value_probs(self, observation: ObservationBatch) -> tuple[Tensor, Tensor]:
        """Return (probs_BK, atoms_K)."""


@dataclass(frozen=True, kw_only=True)
class ValueTrace:
    """The value distribution at every state of one episode."""

    episode: Episode
    probs_TK: npt.NDArray[np.float32]
    """(T + 1, K): one distribution per stored state."""
    atoms_K: npt.NDArray[np.float32]
    quantile_T: npt.NDArray[np.float32]
    """(T + 1,): the statistic drawn as a line, such as the adaptive quantile or the median."""
    quantile_name: str = "median"

    def __post_init__(self) -> None:
        states = self.episode.steps + 1
        if self.probs_TK.shape != (states, self.atoms_K.size) or self.quantile_T.shape != (states,):
            raise ShapeError(
                f"episode {self.episode.info.episode_id} has {states} states, but probs_TK has shape "
                f"{self.probs_TK.shape}, atoms_K {self.atoms_K.shape} and quantile_T {self.quantile_T.shape}"
            )


def value_trace(network: ValueNetwork, observations: ObservationBatch, episode: Episode) -> ValueTrace:
    """Evaluate a value network at every state of an episode; the line is the median.

    Args:
        network: of the learner's checkpoint.
        observations: (T + 1) observations of the episode, in their order.
    """
    probs, atoms = network.value_probs(observations)
    probs_TK, atoms_K = probs.detach().cpu().float().numpy(), atoms.detach().cpu().float().numpy()
    # The CDF's last entry may round below the level; the last atom is meant then.
    reached = np.minimum((probs_TK.cumsum(axis=1) < 0.5).sum(axis=1), atoms_K.size - 1)
    return ValueTrace(episode=episode, probs_TK=probs_TK, atoms_K=atoms_K, quantile_T=atoms_K[reached])


def frame_steps(steps: int, frames: int = FRAMES) -> list[int]:
    """States (of 0 ... steps) whose frames a film strip shows: the middle of equal parts of the episode."""
    return [int((place + 0.5) * steps / frames) for place in range(frames)]


def value_figure(name: str, trace: ValueTrace, frames: Sequence[ByteArray]) -> Drawing:
    """Draw one episode: film strip, value distribution over time, and where a human was in control.

    Args:
        name: unique on the page.
        frames: (height, width, 3) images at `frame_steps(episode.steps, len(frames))`; empty draws no strip.
    """
    episode, steps = trace.episode, trace.episode.steps
    # The strip spans the figure's width, so its height follows from the frames' shape.
    strip = 0.0 if not frames else 9.3 / len(frames) * frames[0].shape[0] / frames[0].shape[1]
    with Canvas(name, height=2.5 + strip) as canvas:
        if frames:
            film, heat = canvas.axes(1, 2, sharex=True, height_ratios=[max(strip, 0.01), 2.1])
            _film(film, frames, steps)
        else:
            (heat,) = canvas.axes()
        _heat(heat, trace)
        _human_spans(heat, episode)
        heat.set_xlim(0, steps)
        heat.set_xlabel(f"control step ({episode.info.control_hz:g} Hz)")
        heat.set_ylabel("value")
        svg = canvas.svg()
    info = episode.info
    seconds = episode.acted_steps / info.control_hz
    human = "; shaded: a human in control" if (episode.controllers_T == Controller.HUMAN).any() else ""
    return Drawing(
        svg=svg,
        caption=(
            f"{info.task.replace('_', ' ').capitalize()}, {_OUTCOMES[info.outcome]} after {episode.acted_steps} steps"
            f" ({seconds:.1f} s), policy version {info.policy_version}: “{info.instruction}”. Colour: "
            f"the probability of each value, scaled per step; line: the {trace.quantile_name}{human}."
        ),
        description=f"Value distribution along an episode of {info.task} that ended in {info.outcome.value}.",
    )


def _film(axes: Axes, frames: Sequence[ByteArray], steps: int) -> None:
    width = steps / len(frames)
    for place, frame in enumerate(frames):
        gap = 0.02 * width
        axes.imshow(frame, extent=(place * width + gap, (place + 1) * width - gap, 0, 1), aspect="auto", zorder=2)
    axes.set_xlim(0, steps)
    axes.set_ylim(0, 1)
    axes.axis("off")


def _heat(axes: Axes, trace: ValueTrace) -> None:
    steps = trace.episode.steps
    # Square root: a diffuse distribution stays visible beside a sharp one.
    shade = np.sqrt(trace.probs_TK / trace.probs_TK.max(axis=1, keepdims=True)).T
    half = float(trace.atoms_K[1] - trace.atoms_K[0]) / 2
    axes.imshow(
        shade,
        extent=(-0.5, steps + 0.5, float(trace.atoms_K[0]) - half, float(trace.atoms_K[-1]) + half),
        origin="lower",
        aspect="auto",
        cmap=_HEAT,
        vmin=0,
        vmax=1,
    )
    axes.plot(np.arange(steps + 1), trace.quantile_T, color=INK, linewidth=1.5, label=trace.quantile_name)
    axes.set_ylim(min(-0.1, float(trace.atoms_K[0])), max(1.1, float(trace.atoms_K[-1])))
    axes.set_yticks([0.0, 0.5, 1.0])


def _human_spans(axes: Axes, episode: Episode) -> None:
    human = np.concatenate([[False], episode.controllers_T == Controller.HUMAN, [False]])
    edges = np.flatnonzero(human[1:] != human[:-1])
    for first, last in edges.reshape(-1, 2):
        axes.axvspan(float(first), float(last), color=SERIES[3], alpha=0.18, linewidth=0)
    axes.axhline(0, color=MUTED, linewidth=0.5)
