"""What each kind of message may be: on which subject, how large, and how many a second are read.

Where NATS has permissions, a subject says who sent a message; its content must say the same. So whoever may publish on
`lwd.heartbeat.host.a` cannot speak for host b.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lwd.fleet import messages, stop_messages
from lwd.fleet.messages import Message

_KIB = 1024
MAX_WATCH_BYTES = 128 * _KIB


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What one kind of message may be."""

    subject: Callable[[Any], str]
    """The subject on which a message with this content belongs."""
    max_bytes: int
    """Larger ones are dropped unread."""
    rate_hz: float
    """Messages a second that are read of one subject; three seconds' worth at once."""


def _on(subject: str) -> Callable[[Any], str]:
    return lambda _: subject


RULES: dict[type[Message], Rule] = {
    messages.EpisodeAnnouncement: Rule(
        subject=lambda message: messages.episode_subject(message.robot_id), max_bytes=8 * _KIB, rate_hz=1000
    ),
    messages.SnapshotAnnouncement: Rule(subject=_on(messages.SNAPSHOT_SUBJECT), max_bytes=4 * _KIB, rate_hz=100),
    messages.PolicyPointer: Rule(subject=_on(messages.POLICY_SUBJECT), max_bytes=8 * _KIB, rate_hz=20),
    messages.LearnerHeartbeat: Rule(subject=_on(messages.LEARNER_SUBJECT), max_bytes=8 * _KIB, rate_hz=100),
    messages.CoordinatorHeartbeat: Rule(subject=_on(messages.COORDINATOR_SUBJECT), max_bytes=4 * _KIB, rate_hz=20),
    messages.HostHeartbeat: Rule(
        subject=lambda message: messages.host_subject(message.host_id), max_bytes=1024 * _KIB, rate_hz=20
    ),
    messages.ControlCommand: Rule(
        subject=lambda message: messages.command_subject(message.robot_id), max_bytes=128 * _KIB, rate_hz=300
    ),
    messages.ControlState: Rule(
        subject=lambda message: messages.control_subject(message.robot_id), max_bytes=8 * _KIB, rate_hz=100
    ),
    messages.OperatorView: Rule(
        subject=lambda message: messages.view_subject(message.robot_id), max_bytes=1024 * _KIB, rate_hz=100
    ),
    stop_messages.StopState: Rule(subject=_on(stop_messages.STOP_SUBJECT), max_bytes=256 * _KIB, rate_hz=1000),
    stop_messages.StopReport: Rule(
        subject=lambda message: stop_messages.stopped_subject(message.host_id), max_bytes=512 * _KIB, rate_hz=50
    ),
    # All consoles share it: each repeats its own every second.
    messages.WatchRequest: Rule(subject=_on(messages.WATCH_SUBJECT), max_bytes=MAX_WATCH_BYTES, rate_hz=200),
}

_OTHERS = Rule(subject=_on(""), max_bytes=64 * _KIB, rate_hz=100)


def rule_of(kind: type[Message]) -> Rule:
    """Return the rule of a kind of message; one without a rule may come on any subject."""
    return RULES.get(kind, _OTHERS)
