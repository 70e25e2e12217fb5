"""The figures that say why: data flow and version lag, losses, and what QAM asked of the policy."""

from collections.abc import Mapping

import numpy as np
from matplotlib.ticker import MaxNLocator

from lwd.evaluation import fleet_curves
from lwd.evaluation.run_data import RunData
from lwd.evaluation.strokes import line
from lwd.evaluation.svg import MUTED, SERIES, Canvas, Drawing

_STAGES = {"sft": ("SFT", MUTED), "offline": ("Offline", SERIES[0]), "online": ("Online", SERIES[1])}


def data_flow(run: RunData) -> Drawing | None:
    """Episodes and snapshots over the wall clock, and how far behind the acting policies were."""
    fleet = run.fleet
    if not fleet:
        return None
    lag = fleet_curves.version_lag(run)
    with Canvas("flow", height=2.4) as canvas:
        left, right = canvas.axes(2)
        start = min(episode.committed_at_s for episode in fleet)
        minutes = [(episode.committed_at_s - start) / 60 for episode in fleet]
        snapshots = np.asarray([episode.snapshot for episode in fleet]) - fleet[0].snapshot + 1
        left.step(minutes, np.arange(1, len(fleet) + 1), color=SERIES[0], where="post", label="episodes")
        left.step(minutes, snapshots, color=SERIES[2], where="post", label="snapshots", linestyle=(0, (4, 2)))
        left.set_title("Committed since the first fleet episode")
        left.set_xlabel("wall clock, minutes")
        left.legend(loc="upper left")
        right.set_title("Policy versions behind the learner")
        right.set_xlabel("fleet time, robot hours")
        if lag.lag.size:
            right.plot(lag.hours, lag.lag, "o", color=SERIES[0], markersize=2.4, alpha=0.5, linewidth=0)
            right.set_ylim(-0.3, max(2.0, float(lag.lag.max()) + 0.5))
        else:
            note = "no policy versions recorded"
            right.text(0.5, 0.5, note, transform=right.transAxes, ha="center", color=MUTED)
        for axes in (left, right):
            axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        svg = canvas.svg()
    return Drawing(
        svg=svg,
        caption=(
            "Left: episodes and snapshots that the coordinator committed. Right: for each episode, how"
            " many versions the learner had published beyond the one that acted, when the episode was "
            "committed. Robots swap policies only between episodes, so long episodes lag more."
        ),
        description="Episodes and snapshots over time, and policy version lag per episode.",
    )


def losses(run: RunData) -> Drawing | None:
    """Flow, value, critic and actor loss over updates."""
    panels = {
        "loss/flow": "Flow matching",
        "loss/value": "Value",
        "loss/critic": "Critic",
        "loss/actor": "Actor (QAM)",
    }
    return _small_multiples(
        run,
        "losses",
        panels,
        "Training losses. Flow matching: squared velocity error of the SFT policy. Value: cross "
        "entropy to the two-hot target, in nats. Critic: squared TD error. Actor: adjoint matching, "
        "whose level depends on the temperature, so read its trend only.",
    )


def qam_diagnostics(run: RunData) -> Drawing | None:
    """What QAM asks of the policy and how far the policy has gone."""
    panels = {
        "qam/adjoint_norm": "Adjoint norm",
        "qam/temperature": "Temperature",
        "qam/deviation": "Deviation",
        "critic/q_spread": "Q spread",
        "critic/q_mean": "Mean Q",
    }
    return _small_multiples(
        run,
        "qam",
        panels,
        "Policy extraction. The adjoint is the critic's gradient over the temperature, pulled back "
        "through the reference flow: near 0 the policy stays the reference. Deviation: RMS velocity "
        "difference from the reference. Q spread: standard deviation of Q over reference samples at "
        "one state; a temperature far below it exploits the critic, far above it does nothing. A mean "
        "Q that climbs far above the fleet's success suggests overestimation.",
    )


def _small_multiples(run: RunData, name: str, panels: Mapping[str, str], caption: str) -> Drawing | None:
    drawn = {
        metric: title
        for metric, title in panels.items()
        if any(run.series(stage, metric).value.size for stage in _STAGES)
    }
    if not drawn:
        return None
    with Canvas(name, height=2.2) as canvas:
        for axes, (metric, title) in zip(canvas.axes(len(drawn)), drawn.items(), strict=True):
            for stage, (label, colour) in _STAGES.items():
                series = run.series(stage, metric)
                if series.value.size:
                    line(axes, series, colour, label)
            axes.set_title(title)
            axes.set_xlabel("updates")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=3))
            axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
        handles = {
            label: handle
            for axes in canvas.figure.axes
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        canvas.figure.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=3)
        svg = canvas.svg()
    return Drawing(svg=svg, caption=caption, description=f"{', '.join(drawn.values())} over learner updates.")
