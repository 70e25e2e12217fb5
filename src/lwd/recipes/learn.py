"""The learning experiment: SFT, LWD offline, LWD online and a filtered-BC control over several seeds.

Each seed is an ordinary run of the `lwd` verbs in RUN/seed-<s>; a finished stage or evaluation is never run again.
All seeds share the offline data; all methods and seeds share the evaluation starts.
"""

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwd.commands import lwd_command
from lwd.data import durable
from lwd.errors import ServiceError
from lwd.evaluation.results import EvaluationResult, load_result
from lwd.evaluation.statistics import Interval, mean_over_tasks, paired_difference
from lwd.models.checkpoint import load_vla, policy_bytes
from lwd.recipes.budget import Budget
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.scene import recipe
from lwd.recipes.verbs import link_tree, verb_command

METHODS = ("sft", "filtered_bc", "lwd_offline", "lwd_online")
REFERENCES = {"lwd_offline": "offline", "lwd_online": "online"}
"""Method -> stage whose reference policy is evaluated beside it: what imitation contributes without the critic."""
EVALUATION_SEED = 1000
"""Not the seed that settings were chosen on (0 to 10): those starts would flatter them."""


@dataclass(frozen=True, kw_only=True)
class LearnConfig:
    """What to run."""

    root: Path
    out: Path
    """Directory of learn.json and learn.md."""
    seeds: tuple[int, ...] = (0, 1, 2)
    episodes: int = 25
    """Evaluation episodes per task, method and seed."""
    budget: Budget = "full"
    threads: int = 2
    """CPU threads of SFT and offline learning; 1 where several seeds run side by side."""


def learn(config: LearnConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Run what is missing, writing the results after every finished evaluation; return them.

    Raises:
        ServiceError: if a verb fails; the same call continues.
    """
    shared = config.root / "data"
    _verb(say, "data", "generate", "--run", str(shared), "--budget", config.budget)
    for seed in config.seeds:
        run = config.root / f"seed-{seed}"
        link_tree(shared / "store", run / "store")
        where = ("--run", str(run), "--budget", config.budget, "--seed", str(seed))
        threads = ("--threads", str(config.threads))
        for method, steps in (
            ("sft", [("sft", *where, *threads)]),
            ("lwd_offline", [("offline", *where, *threads)]),
            ("lwd_online", [("up", *where)] if not _finished(run, "online") else []),
            ("filtered_bc", [("filtered-bc", *where, *threads)]),
        ):
            result = _result_path(config, seed, method)
            if not result.exists():
                for step in steps:
                    _verb(say, *step)
                _evaluate(say, config, str(run), "--method", method)
            reference = _result_path(config, seed, f"{method}_reference")
            if method in REFERENCES and not reference.exists():
                policy = _write_reference(run, REFERENCES[method], reference.with_suffix(".safetensors"))
                _evaluate(say, config, str(policy), "--out", str(reference))
            write_results(config)
    return write_results(config)


def _evaluate(say: Callable[[str], None], config: LearnConfig, *what: str) -> None:
    _verb(say, "evaluate", *what, "--episodes", str(config.episodes), "--seed", str(EVALUATION_SEED))


def _write_reference(run: Path, stage: str, path: Path) -> Path:
    """Write the reference policy that a stage ended with to a policy file."""
    checkpoint = RunDirectory(run).finished(stage, "up" if stage == "online" else stage)
    policy = load_vla(checkpoint.policy_path)
    policy.load_state_dict(checkpoint.state()["reference"])
    durable.replace(path, policy_bytes(policy))
    return path


def write_results(config: LearnConfig) -> dict[str, Any]:
    """Write learn.json and learn.md from the evaluations that are there; return the content of learn.json."""
    results = _load(config, METHODS)
    references = _load(config, tuple(f"{method}_reference" for method in REFERENCES))
    summary = {
        "seeds": sorted({seed for runs in results.values() for seed in runs}),
        "methods": {method: _method(runs) for method, runs in results.items()},
        "references": {method: _method(runs) for method, runs in references.items()},
        "differences": _differences(results | references),
        "fleet": {str(seed): fleet for seed in config.seeds if (fleet := _fleet(config.root / f"seed-{seed}"))},
    }
    durable.replace(config.out / "learn.json", json.dumps(summary, indent=1).encode())
    durable.replace(config.out / "learn.md", _page(summary, config).encode())
    return summary


def _load(config: LearnConfig, methods: Sequence[str]) -> dict[str, dict[int, EvaluationResult]]:
    """Method -> training seed -> result, of the evaluations that are there."""
    found = {
        method: {
            seed: load_result(path) for seed in config.seeds if (path := _result_path(config, seed, method)).exists()
        }
        for method in methods
    }
    return {method: runs for method, runs in found.items() if runs}


def _result_path(config: LearnConfig, seed: int, method: str) -> Path:
    # The run's own report shows what lies in eval/.
    directory = "references" if method.endswith("_reference") else "eval"
    return config.root / f"seed-{seed}" / directory / f"{method}.json"


def _method(runs: Mapping[int, EvaluationResult]) -> dict[str, Any]:
    scores = [result.scores() for result in runs.values()]
    interval = mean_over_tasks(scores)
    tasks = {}
    for task in scores[0]:
        of_task = mean_over_tasks([{task: run[task]} for run in scores])
        episodes = sum(len(run[task]) for run in scores)
        tasks[task] = {"mean": of_task.mean, "ci95": [of_task.low, of_task.high], "episodes": episodes}
    seeds = {}
    for seed, result in runs.items():
        of_seed = mean_over_tasks([result.scores()])
        seeds[str(seed)] = {"mean": of_seed.mean, "ci95": [of_seed.low, of_seed.high]}
    return {
        "mean": interval.mean,
        "ci95": [interval.low, interval.high],
        "episodes": sum(len(result.episodes) for result in runs.values()),
        "tasks": tasks,
        "seeds": seeds,
        "sub_step_score": _mean([result.summary.mean_sub_step_score for result in runs.values()]),
        "mean_steps_success": _mean(
            [steps for result in runs.values() if (steps := result.summary.mean_steps_success) is not None]
        ),
    }


def _differences(results: Mapping[str, Mapping[int, EvaluationResult]]) -> dict[str, Any]:
    """Paired differences: the same starts, the same training seeds."""
    pairs = (
        ("lwd_offline", "sft"),
        ("lwd_online", "lwd_offline"),
        ("lwd_online", "sft"),
        ("lwd_online", "filtered_bc"),
        *((method, f"{method}_reference") for method in REFERENCES),
    )
    found = {}
    for ours, baseline in pairs:
        seeds = sorted(results.get(ours, {}).keys() & results.get(baseline, {}).keys())
        if not seeds:
            continue
        interval: Interval = paired_difference(
            [results[ours][seed].scores() for seed in seeds],
            [results[baseline][seed].scores() for seed in seeds],
        )
        found[f"{ours} - {baseline}"] = {"mean": interval.mean, "ci95": [interval.low, interval.high]}
    return found


def _fleet(run: Path) -> dict[str, float] | None:
    """What the online stage of a seed used, from its last metrics."""
    path = run / "metrics" / "learner.jsonl"
    if not path.exists():
        return None
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    online = [row for row in rows if row["stage"] == "online"]
    if not online:
        return None
    last = online[-1]
    return {
        "env_steps": last["metrics"]["replay/env_steps"],
        "episodes": last["metrics"]["replay/episodes"],
        "updates": last["update"],
        "seconds": last["time_s"] - online[0]["time_s"],
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _finished(run: Path, stage: str) -> bool:
    found = RunDirectory(run).checkpoints(stage).latest()
    return found is not None and found.progress.finished


def _verb(say: Callable[[str], None], *arguments: str) -> None:
    say(lwd_command(*arguments))
    status = subprocess.run(verb_command(*arguments), check=False).returncode
    if status == 130:
        raise KeyboardInterrupt
    if status != 0:
        raise ServiceError(f"`{lwd_command(*arguments)}` failed with status {status}; mend it and run this again")


_NAMES = {
    "sft": "SFT",
    "filtered_bc": "Filtered BC",
    "lwd_offline": "LWD offline",
    "lwd_online": "LWD online",
}


def _words(name: str) -> str:
    """`lwd_online_reference` -> `LWD online reference`."""
    return name.replace("_", " ").replace("lwd", "LWD").replace("sft", "SFT").replace("bc", "BC")


def _page(summary: Mapping[str, Any], config: LearnConfig) -> str:
    """The results as a Markdown page."""
    methods = summary["methods"]
    settings = recipe(config.budget)
    tasks = next(iter(methods.values()))["tasks"] if methods else {}

    def cell(entry: Mapping[str, Any]) -> str:
        return f"{entry['mean']:.2f} ({entry['ci95'][0]:.2f}-{entry['ci95'][1]:.2f})"

    lines = [
        "# Does it learn?",
        "",
        "Written by `make learn`; the numbers are those of `learn.json`.",
        "",
        f"Success on the eight tasks of the simulated scene, {config.episodes} evaluation episodes per task and seed, "
        f"training seeds {', '.join(map(str, summary['seeds']))}. All methods meet the same starts (evaluation seed "
        f"{EVALUATION_SEED}, never used to choose a setting) with held-out wordings of the instructions and without "
        "help. Intervals are 95 %, bootstrapped over training seeds and episodes.",
        "",
        f"The fleet: {settings.fleet.robots} simulated robots, {settings.fleet.env_steps:,} control steps "
        f"({settings.fleet.env_steps / 20 / 3600:.1f} robot hours) in world `{settings.fleet.world}`. *Filtered BC* is "
        "the control: the SFT policy trained on by imitation of the demonstrations, successes and human corrections in "
        "the very data that LWD's fleet collected.",
        "",
        "| | " + " | ".join(_NAMES[method] for method in methods) + " |",
        "|---|" + "---|" * len(methods),
        "| **mean** | " + " | ".join(f"**{cell(entry)}**" for entry in methods.values()) + " |",
    ]
    lines += [
        f"| {task.replace('_', ' ')} | " + " | ".join(cell(m["tasks"][task]) for m in methods.values()) + " |"
        for task in tasks
    ]
    lines += [
        f"| seed {seed} | "
        + " | ".join(cell(m["seeds"][str(seed)]) if str(seed) in m["seeds"] else "" for m in methods.values())
        + " |"
        for seed in summary["seeds"]
    ]
    lines.append("| episodes | " + " | ".join(str(entry["episodes"]) for entry in methods.values()) + " |")
    lines.append(
        "| sub-step score | " + " | ".join(f"{entry['sub_step_score']:.2f}" for entry in methods.values()) + " |"
    )
    if summary["references"]:
        lines += [
            "",
            "What the critic adds: each LWD policy beside the reference that it ended with, which imitates the same "
            "data (demonstrations, fleet successes, corrections) and knows no critic.",
            "",
        ]
        lines += [f"- {_words(name)}: {cell(entry)}" for name, entry in summary["references"].items()]
    lines += ["", "Paired differences (same starts, same training seeds):", ""]
    for name, entry in summary["differences"].items():
        low, high = entry["ci95"]
        lines.append(f"- {_words(name)}: {entry['mean']:+.3f} ({low:+.3f} to {high:+.3f})")
    lines += ["", "Online stages:", ""]
    for seed, fleet in summary["fleet"].items():
        lines.append(
            f"- seed {seed}: {fleet['episodes']:.0f} episodes, {fleet['env_steps']:,.0f} steps, "
            f"{fleet['updates']:,} critic updates, {fleet['seconds'] / 60:.1f} minutes"
        )
    return "\n".join(lines) + "\n"
