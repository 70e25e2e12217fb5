"""Frames of the wall: what a browser needs to draw one robot in about a kilobyte, or to show what it sees in some ten.

Poses, little-endian: version u8 (1), length of the robot id u8, robot id, step u32, lamps u32, Unix time f64, number of
bodies N u16, then N x 7 float32: x, y, z in m, quaternion w, x, y, z. Pictures: version u8 (2), length of the robot id
u8, robot id, step u32, Unix time f64, then a JPEG. Binary, because a console passes frames on unread, and because a
browser reads the numbers as they lie.
"""

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lwd.errors import ServiceError
from lwd.robots.protocol import BodyPoses
from lwd.types import ByteArray

VERSION = 1
PICTURE_VERSION = 2
MAX_FRAME_BYTES = 65_536
_HEAD = struct.Struct("<BB")
_REST = struct.Struct("<IIdH")
_PICTURE = struct.Struct("<Id")
_PICTURE_HEIGHT = 240
_QUALITIES = (75, 50, 25)
"""Of the JPEG; the next one where a picture is too large for a frame."""


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
    if not _HEAD.size <= len(data) <= MAX_FRAME_BYTES or data[0] not in (VERSION, PICTURE_VERSION):
        raise ServiceError(
            f"a frame of {len(data)} bytes is of no version that is known here: use the same lwd everywhere"
        )
    at = _HEAD.size + data[1]
    if data[0] == PICTURE_VERSION:
        if data[at + _PICTURE.size : at + _PICTURE.size + 2] != b"\xff\xd8":
            raise ServiceError(f"a frame of {len(data)} bytes says that it is a picture, and holds no JPEG")
        return data[_HEAD.size : at].decode(errors="replace")
    if len(data) < at + _REST.size or len(data) != at + _REST.size + 28 * _REST.unpack_from(data, at)[3]:
        raise ServiceError(f"a pose frame of {len(data)} bytes has another length than it says")
    return data[_HEAD.size : at].decode(errors="replace")


def encode_pictures(robot_id: str, step: int, time_s: float, pictures: Mapping[str, ByteArray]) -> bytes:
    """Return a frame of what a robot's cameras see, side by side; takes some milliseconds.

    Args:
        pictures: camera -> (height, width, 3), at least one.
    Raises:
        ServiceError: if they do not fit into a frame however strongly they are compressed.
    """
    scaled = [
        image.resize((max(1, round(image.width * _PICTURE_HEIGHT / image.height)), _PICTURE_HEIGHT))
        for image in map(Image.fromarray, pictures.values())
    ]
    together = Image.new("RGB", (sum(image.width for image in scaled), _PICTURE_HEIGHT))
    left = 0
    for image in scaled:
        together.paste(image, (left, 0))
        left += image.width
    name = robot_id.encode()
    head = _HEAD.pack(PICTURE_VERSION, len(name)) + name + _PICTURE.pack(step, time_s)
    for quality in _QUALITIES:
        encoded = io.BytesIO()
        together.save(encoded, "JPEG", quality=quality)
        if len(head) + encoded.tell() <= MAX_FRAME_BYTES:
            return head + encoded.getvalue()
    raise ServiceError(f"pictures of {robot_id} are too large for a frame: {together.width} x {together.height}")


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
