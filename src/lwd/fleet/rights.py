"""What each part of a fleet may do on a NATS server that has permissions: one table, beside the subjects.

With these rights a robot host speaks for its own robots alone, reads nobody else's commands and answers, and neither
makes nor empties a stream. `lwd bus rights` prints them.
"""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lwd.data.episode_file import NAME_PATTERN
from lwd.errors import ConfigError
from lwd.fleet import messages
from lwd.fleet.bus_connection import INBOX
from lwd.fleet.jetstream import BUCKET, CONSUMER, POINTER_KEY, STREAM
from lwd.fleet.stop_messages import STOP_KEY, STOP_SUBJECT, STOPPED_SUBJECT, stopped_subject

Role = Literal["robot", "coordinator", "learner", "console", "operator"]
ROLES: tuple[Role, ...] = get_args(Role)
_API = "$JS.API"
_BUCKET_STREAM = f"KV_{BUCKET}"
_ANSWER_WITHIN_S = 5
_READ_BUCKET = (f"{_API}.STREAM.INFO.{_BUCKET_STREAM}", f"{_API}.STREAM.MSG.GET.{_BUCKET_STREAM}")

_KEEP_BUCKET = (*_READ_BUCKET, *(f"{_API}.STREAM.{verb}.{_BUCKET_STREAM}" for verb in ("CREATE", "UPDATE")))
_STOP = (STOP_SUBJECT, *_KEEP_BUCKET, f"$KV.{BUCKET}.{STOP_KEY}")
_HEAR_STOPS = (STOP_SUBJECT, f"{STOPPED_SUBJECT}.*")


@dataclass(frozen=True, kw_only=True)
class Rights:
    """Subjects that a user may publish and subscribe; everything else is refused."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    answers: bool
    """Whether it answers what it is asked: one message, on the inbox that came with the question."""

    def as_config(self) -> str:
        """Return the `permissions` of a user in a NATS server's configuration."""
        lines = ["permissions: {"]
        for name, subjects in (("publish", self.publish), ("subscribe", self.subscribe)):
            lines += [f"  {name}: {{ allow: [", *(f"    {json.dumps(subject)}" for subject in subjects), "  ] }"]
        if self.answers:
            lines.append(f'  allow_responses: {{ max: 1, expires: "{_ANSWER_WITHIN_S}s" }}')
        return "\n".join([*lines, "}"])

    def as_claims(self) -> dict[str, Any]:
        """Return the claims of a user's JWT."""
        claims: dict[str, Any] = {"pub": {"allow": list(self.publish)}, "sub": {"allow": list(self.subscribe)}}
        if self.answers:
            claims["resp"] = {"max": 1, "ttl": _ANSWER_WITHIN_S * 10**9}
        return claims

    def as_nsc(self, user: str) -> str:
        """Return the command that makes the user with NATS's tool `nsc`."""
        words = [shlex.join(("nsc", "add", "user", user))]
        words += [f"--allow-pub {shlex.quote(subject)}" for subject in self.publish]
        words += [f"--allow-sub {shlex.quote(subject)}" for subject in self.subscribe]
        if self.answers:
            words.append(f"--allow-pub-response=1 --response-ttl {_ANSWER_WITHIN_S}s")
        return " \\\n    ".join(words)


def rights_of(role: Role, user: str, *, host: str = "", robots: Sequence[str] = ()) -> Rights:
    """Return what one user needs.

    Args:
        user: its name with the server; its answers come to `_INBOX_<user>.>`.
        host: of a robot host, its id (`lwd robot --host`); empty: the user's name.
        robots: of a robot host, the ids of its robots; of an operator, the robots that they may drive (none: all).
    Raises:
        ConfigError: if a name is none, or robots are given or missing where they should not be.
    """
    for name in (user, *robots, *((host,) if host else ())):
        if not re.match(NAME_PATTERN, name):
            raise ConfigError(f"{name!r} is no name: give letters, digits, '.', '_' and '-', such as robot-3")
    if role == "robot" and not robots:
        raise ConfigError("robots is empty: name all robots of the host, --robots robot-3 robot-4")
    if robots and role not in ("robot", "operator"):
        raise ConfigError(f"robots is {' '.join(robots)}, but a {role} has none: leave it out")
    if host and role != "robot":
        raise ConfigError(f"host is {host}, but role is {role}: leave it out")
    match role:
        case "robot":
            publish, subscribe = _robot(host or user, robots)
        case "coordinator":
            publish, subscribe = _coordinator()
        case "learner":
            publish, subscribe = _learner()
        case "console":
            publish, subscribe = _console()
        case "operator":
            publish, subscribe = _operator(robots)
    inbox = f"{INBOX}_{messages.subject_token(user)}.>"
    return Rights(publish=publish, subscribe=(*subscribe, inbox), answers=role == "robot")


_Subjects = tuple[tuple[str, ...], tuple[str, ...]]


def _robot(host: str, robots: Sequence[str]) -> _Subjects:
    own = (messages.episode_subject, messages.control_subject, messages.poses_subject, messages.view_subject)
    return (
        (
            messages.host_subject(host),
            stopped_subject(host),
            *(subject(robot) for robot in robots for subject in own),
            *_READ_BUCKET,
        ),
        (
            messages.POLICY_SUBJECT,
            messages.SNAPSHOT_SUBJECT,
            messages.LEARNER_SUBJECT,
            messages.WATCH_SUBJECT,
            STOP_SUBJECT,
            *(messages.command_subject(robot) for robot in robots),
        ),
    )


def _coordinator() -> _Subjects:
    return (
        (
            messages.COORDINATOR_SUBJECT,
            messages.SNAPSHOT_SUBJECT,
            *(f"{_API}.STREAM.{verb}.{STREAM}" for verb in ("INFO", "CREATE", "UPDATE")),
            # Its consumer as it is made by name, with its filter, and as older servers take it.
            f"{_API}.CONSUMER.CREATE.{STREAM}.{CONSUMER}.>",
            f"{_API}.CONSUMER.DURABLE.CREATE.{STREAM}.{CONSUMER}",
            f"{_API}.CONSUMER.INFO.{STREAM}.{CONSUMER}",
            f"{_API}.CONSUMER.MSG.NEXT.{STREAM}.{CONSUMER}",
            f"$JS.ACK.{STREAM}.{CONSUMER}.>",
            # Servers of accounts in clusters put a domain and the account's hash before the stream's name.
            f"$JS.ACK.*.*.{STREAM}.{CONSUMER}.>",
        ),
        (),
    )


def _learner() -> _Subjects:
    return (
        (
            messages.LEARNER_SUBJECT,
            messages.POLICY_SUBJECT,
            *_KEEP_BUCKET,
            f"$KV.{BUCKET}.{POINTER_KEY}",
        ),
        (messages.SNAPSHOT_SUBJECT,),
    )


def _console() -> _Subjects:
    return (
        (messages.WATCH_SUBJECT, f"{messages.COMMAND_SUBJECT}.*", *_STOP),
        (
            messages.host_subject("*"),
            messages.LEARNER_SUBJECT,
            messages.COORDINATOR_SUBJECT,
            f"{messages.CONTROL_SUBJECT}.*",
            f"{messages.VIEW_SUBJECT}.*",
            f"{messages.POSES_SUBJECT}.*",
            *_HEAR_STOPS,
        ),
    )


def _operator(robots: Sequence[str]) -> _Subjects:
    commands = tuple(map(messages.command_subject, robots)) or (f"{messages.COMMAND_SUBJECT}.*",)
    return (
        (messages.WATCH_SUBJECT, *commands, *_STOP),
        (f"{messages.CONTROL_SUBJECT}.*", f"{messages.VIEW_SUBJECT}.*", *_HEAR_STOPS),
    )
