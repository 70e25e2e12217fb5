"""Decoding of an episode's encoded camera frames."""

import io

import numpy as np
from PIL import Image

from lwd.errors import EpisodeRejected
from lwd.types import ByteArray, Episode


def decode_frames(episode: Episode, camera: str, size: tuple[int, int]) -> ByteArray:
    """Decode one camera's frames.

    Args:
        camera: a key of `episode.images`.
        size: (height, width) in pixels that every frame must have.
    Returns:
        (T + 1, height, width, 3) uint8 RGB.
    Raises:
        EpisodeRejected: if frames are missing, cannot be decoded or have another size.
    """
    where = f"episode {episode.info.episode_id}: camera {camera!r}"
    encoded = episode.images.get(camera, ())
    if len(encoded) != episode.steps + 1:
        raise EpisodeRejected(f"{where} has {len(encoded)} frames; expected {episode.steps + 1}")
    frames = np.empty((len(encoded), *size, 3), dtype=np.uint8)
    for index, data in enumerate(encoded):
        try:
            with Image.open(io.BytesIO(data)) as image:
                # The header is checked before any pixel is decoded, so a forged size costs nothing.
                if (image.height, image.width) != size:
                    raise EpisodeRejected(
                        f"{where}: frame {index} has {image.height} x {image.width} pixels; expected {size}"
                    )
                frames[index] = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for broken files
            raise EpisodeRejected(f"{where}: frame {index} cannot be decoded: {error}") from error
    return frames
