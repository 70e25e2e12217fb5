"""Pose frames: what a browser needs to draw one robot, in about a kilobyte.

Little-endian: version u8 (1), length of the robot id u8, robot id, step u32, lamps u32, Unix time f64, number of bodies
N u16, then N x 7 float32: x, y, z in m, quaternion w, x, y, z. Binary, because a console passes frames on unread, and
because a browser reads the numbers as they lie.
"""

import struct
from dataclasses import dataclass

import numpy as np

from lwd.errors import ServiceError
from lwd.robots.protocol import BodyPoses

VERSION = 1
MAX_FRAME_BYTES = 65_536
_HEAD = struct.Struct("<BB")
_REST = struct.Struct("<IIdH")


@dataclass(frozen=True, kw_only=True)
class PoseFrame:
    """One robot at one moment."""

    robot_id: str
    step: int
    time_s: float
    """Unix time of the robot's host."""
    poses: BodyPoses


def encode_frame(frame: PoseFrame) -> bytes:
    """Return the frame's bytes."""
    name = frame.robot_id.encode()
    poses_N7 = np.ascontiguousarray(frame.poses.poses_N7, dtype="<f4")
    rest = _REST.pack(frame.step, frame.poses.lamps, frame.time_s, len(poses_N7))
    return b"".join((_HEAD.pack(VERSION, len(name)), name, rest, poses_N7.tobytes()))


def robot_of_frame(data: bytes) -> str:
    """Return whose frame it is, having checked its version and length.

    Raises:
        ServiceError: if it is no pose frame.
    """
    if not _HEAD.size <= len(data) <= MAX_FRAME_BYTES or data[0] != VERSION:
        raise ServiceError(
            f"a pose frame of {len(data)} bytes is not of version {VERSION}: use the same lwd everywhere"
        )
    at = _HEAD.size + data[1]
    if len(data) < at + _REST.size or len(data) != at + _REST.size + 28 * _REST.unpack_from(data, at)[3]:
        raise ServiceError(f"a pose frame of {len(data)} bytes has another length than it says")
    return data[_HEAD.size : at].decode(errors="replace")


def decode_frame(data: bytes) -> PoseFrame:
    """Read a frame.

    Raises:
        ServiceError: if it is no pose frame.
    """
    robot_id = robot_of_frame(data)
    at = _HEAD.size + data[1]
    step, lamps, time_s, _ = _REST.unpack_from(data, at)
    poses_N7 = np.frombuffer(data, dtype="<f4", offset=at + _REST.size).reshape(-1, 7)
    return PoseFrame(robot_id=robot_id, step=step, time_s=time_s, poses=BodyPoses(poses_N7=poses_N7, lamps=lamps))
