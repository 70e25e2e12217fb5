"""Records with known scores."""

from collections.abc import Mapping, Sequence

from lwd.evaluation.experiment.records import CellRecord, FleetRecord, Points, TaskEpisodes, TrainingRecord
from lwd.evaluation.experiment.scores import Setting
from lwd.recipes.reproduce.registry import WORDS

from ..synthetic import LONG, SHORT

EPISODES = 20
SETTING = Setting(
    budget="small",
    seeds=(0, 1, 2),
    tasks=(*SHORT, *LONG),
    episodes=EPISODES,
    evaluation_seed=2000,
    world="shifted",
    robots=16,
    env_steps=150_000,
    fleet_sizes=(1, 2, 4, 8, 16),
    methods=WORDS,
    planned=40,
    hours_left=3.0,
)


def tasks(short: float, long: float, *, steps: int = 100, sub_steps: float = 0.5) -> dict[str, TaskEpisodes]:
    """Episodes of which the first round(rate * 20) succeed after `steps` steps."""
    return {
        name: TaskEpisodes(
            successes=tuple(
                int(index < round((long if name in LONG else short) * EPISODES)) for index in range(EPISODES)
            ),
            steps=(steps,) * EPISODES,
            sub_steps=(sub_steps,) * EPISODES,
            long_horizon=name in LONG,
        )
        for name in (*SHORT, *LONG)
    }


def record(
    method: str,
    stage: str,
    seed: int,
    *,
    short: float = 0.5,
    long: float = 0.5,
    robots: int = 0,
    env_steps: int = 0,
    steps: int = 100,
    error: str | None = None,
    curves: Mapping[str, Sequence[float]] | None = None,
) -> CellRecord:
    if stage == "online" and not robots:
        robots, env_steps = 16, 150_000
    name = f"{method}-{stage}-{robots}-{env_steps}-seed{seed}"
    curves = curves or {
        "divl/quantile_level": [0.4 + 0.001 * place for place in range(60)],
        "divl/normalized_entropy": [0.6 - 0.001 * place for place in range(60)],
        "critic/q_mean": [0.5] * 60,
    }
    hours = tuple(0.1 * place for place in range(1, 21))
    fleet = FleetRecord(
        env_steps=150_000,
        episodes=1_250,
        robot_hours=2.0,
        interventions=300,
        human_steps=15_000,
        success=Points(x=hours, y=tuple(0.4 + 0.02 * place for place in range(20)), low=hours, high=hours),
        interventions_per_hour=Points(
            x=hours, y=tuple(200.0 - 5 * place for place in range(20)), low=hours, high=hours
        ),
    )
    training = TrainingRecord(
        wall_s=430.0,
        updates=7_400,
        updates_per_s=18.0,
        env_steps_per_s=350.0 if stage == "online" else None,
        means={metric: sum(values) / len(values) for metric, values in curves.items()},
        curves={
            metric: Points(x=tuple(float(50 * i) for i in range(len(v))), y=tuple(v)) for metric, v in curves.items()
        },
        fleet=fleet if stage == "online" else None,
    )
    return CellRecord(
        key=name.ljust(64, "0"),
        name=name,
        method=method,
        stage=stage,  # type: ignore[arg-type]
        seed=seed,
        robots=robots,
        env_steps=env_steps,
        evaluation_seed=2000,
        world="shifted",
        control_hz=20.0,
        wall_s=90.0,
        tasks={} if error else tasks(short, long, steps=steps),
        training=None if error else training,
        error=error,
    )


def ladder(seeds: Sequence[int] = (0, 1, 2)) -> list[CellRecord]:
    """SFT .4, offline .6, online .8 (short) and .9 (long), which is 0.5 to 1.5 s faster than SFT; RECAP .95."""
    found = []
    for seed in seeds:
        found += [
            record("sft", "sft", seed, short=0.4, long=0.4, steps=110 + 10 * seed),
            record("lwd", "offline", seed, short=0.6, long=0.6),
            record("lwd", "online", seed, short=0.8, long=0.9, steps=100),
            record("recap", "online", seed, short=0.95, long=0.95),
            record("hg_dagger", "online", seed, short=0.85, long=0.85),
        ]
    return found
