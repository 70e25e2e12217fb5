"""Every exception that LWD raises on purpose.

LWDError
 +-- ConfigError             a setting or an argument is wrong (field, value, remedy)
 |    +-- UnknownTask
 +-- ShapeError              tensors or arrays whose shapes do not agree
 +-- NonFiniteLoss           a loss became NaN or infinite; training stopped
 +-- EpisodeRejected         an episode failed validation (the coordinator quarantines it)
 |    +-- EpisodeUnjudged    validation itself failed
 +-- StoreError              the object store cannot do what was asked
 |    +-- StoreUnsafe        two writers can both create one object
 |    +-- ObjectExists       other bytes are stored under that key
 |    +-- ObjectMissing      nothing is stored under that key
 |    +-- ObjectTooLarge     more bytes are stored under that key than the caller takes
 +-- CheckpointError         a checkpoint is missing, corrupt or of another embodiment
 |    +-- ResumeError        a run cannot be continued exactly
 +-- RobotFault              a robot must hold (non-finite action, lost simulator)
 |    +-- ActionRejected
 |    +-- OperatorFault      whoever may take a robot over raised, or does not answer; the robot itself is well
 |    +-- PolicyFault        a policy raised instead of acting, or gave no usable chunk
 |    +-- ResetInterrupted   somebody took the robot over, or stopped it, on its way to its start
 |    +-- RobotStopped       nothing may move it now (somebody stopped all robots, or its loop stood still)
 +-- LeaseTaken              another learner writes to the store
 +-- ControlRefused          an operator may not do that to a robot now (another holds it, the lease has ended)
 +-- ServiceError            a process of the fleet is missing, dead or unreachable
      +-- PortInUse
      +-- ProcessFailed       a process of ours ended with an error that a restart would repeat
      +-- BusRefused        the NATS server refuses us, or we do not trust it
"""

import errno


class LWDError(Exception):
    """Base of all errors that LWD raises on purpose; the message names field, value and remedy."""


class ConfigError(LWDError):
    """A setting or an argument is wrong."""


class UnknownTask(ConfigError):
    """A task name that the embodiment does not have."""


class ShapeError(LWDError, ValueError):
    """Tensors or arrays whose shapes do not agree."""


class NonFiniteLoss(LWDError):
    """A loss became NaN or infinite."""


class EpisodeRejected(LWDError):
    """An episode failed validation."""


class EpisodeUnjudged(EpisodeRejected):
    """Validation itself failed, for want of memory or by a bug: not surely the episode's fault."""


class StoreError(LWDError):
    """The object store cannot do what was asked."""


class StoreUnsafe(StoreError):
    """The store lets two writers both create one object."""


class ObjectExists(StoreError):
    """Other bytes are stored under that key."""


class ObjectMissing(StoreError):
    """Nothing is stored under that key."""


class ObjectTooLarge(StoreError):
    """More bytes are stored under that key than the caller takes."""


class ManifestDamaged(StoreError):
    """What lies in a policy manifest's place is none."""


class PolicyAltered(StoreError):
    """A policy's bytes are not the ones that its manifest names."""


class CheckpointError(LWDError):
    """A checkpoint is missing, corrupt or belongs to another embodiment."""


class ResumeError(CheckpointError):
    """A run cannot be continued exactly."""


class RobotFault(LWDError):
    """A robot must hold."""


class ActionRejected(RobotFault):
    """An action that must not reach the robot (non-finite or of the wrong shape)."""


class OperatorFault(RobotFault):
    """Whoever may take a robot over (a device, a script) raised or does not answer; the robot itself is well."""


class PolicyFault(RobotFault):
    """A policy raised instead of acting, or gave no usable chunk."""


class ResetInterrupted(RobotFault):
    """A robot was held on the way to its start; it is reset again once it may begin."""


class RobotStopped(RobotFault):
    """Nothing may move this robot now; it holds."""


class LeaseTaken(LWDError):
    """Another learner writes to the store."""


class ControlRefused(LWDError):
    """An operator may not do that to a robot now."""


class ServiceError(LWDError):
    """A process of the fleet is missing, dead or unreachable."""


class PortInUse(ServiceError):
    """A port that a server of ours needs is taken."""


class ProcessFailed(ServiceError):
    """A process of ours ended with an error that a restart would repeat."""


class BusRefused(ServiceError):
    """The NATS server refuses us, or we do not trust it; repeating helps only after somebody mends it."""


TRY_AGAIN = 75
"""Exit status of a process whose error may be gone at the next try (EX_TEMPFAIL of sysexits.h)."""


WRONG_USAGE = 2
"""Exit status of a wrong command line."""
MISCONFIGURED = 78
"""Exit status of a process whose settings are wrong: a restart would repeat the error (EX_CONFIG of sysexits.h)."""


def exit_status(error: BaseException) -> int:
    """Return the exit status of a process that ends with an error.

    TRY_AGAIN if a restart may help, MISCONFIGURED if a setting is wrong, else 1.
    """
    if isinstance(error, ConfigError):
        return MISCONFIGURED
    lasting = (StoreUnsafe, ObjectExists, PortInUse, ProcessFailed, BusRefused)
    return TRY_AGAIN if isinstance(error, (StoreError, ServiceError)) and not isinstance(error, lasting) else 1


def os_error_in_words(error: OSError, path: object = None) -> str:
    """Return what to say about an error of the operating system: what, where, and what to do.

    Args:
        path: of the file that was written or read; None: as the error says, which it does not of a full disk.
    """
    where = path or error.filename2 or error.filename
    at = f" ({where})" if where else ""
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = (
            "free space on its disk, then repeat the command"
            if where
            else ("free space on the disk of the run, or of temporary files (TMPDIR), then repeat the command")
        )
    elif error.errno == errno.EROFS:
        remedy = "make its file system writable, or give another path"
    elif error.errno in (errno.EACCES, errno.EPERM):
        remedy = "change its permissions, or run the command as its owner"
    elif error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG):
        remedy = "check the path"
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        remedy = "allow more open files (ulimit -n)"
    elif error.errno == errno.EIO:
        remedy = "the disk fails: check it"
    else:
        remedy = "check the path, its disk or the network, then repeat the command"
    return f"{reason}{at}: {remedy}"
