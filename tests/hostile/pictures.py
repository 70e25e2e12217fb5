"""Frames that a decoder would choke on, be bombed by, or read as something else."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from ..unit.data.episodes import frame
from .case import STEPS, Case, case, with_frames

HEIGHT, WIDTH = 6, 8
PNG = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def png(*chunks: bytes) -> bytes:
    return PNG + b"".join(chunks) + chunk(b"IEND", b"")


def pixels(rows: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> bytes:
    return chunk(b"IDAT", zlib.compress((b"\0" + bytes(width * channels)) * rows))


def encoded(mode: str, form: str, size: tuple[int, int] = (WIDTH, HEIGHT), **options) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, format=form, **options)
    return buffer.getvalue()


def jpeg(**options) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format="JPEG", **options)
    return buffer.getvalue()


def without_segment(data: bytes, marker: int) -> bytes:
    """A JPEG without its first segment of a kind."""
    start = data.index(bytes((0xFF, marker)))
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]


def with_marker(data: bytes, old: int, new: int) -> bytes:
    return data.replace(bytes((0xFF, old)), bytes((0xFF, new)), 1)


def pngs() -> Iterator[tuple[str, bytes, str]]:
    good = frame()
    size, ending = header(WIDTH, HEIGHT), "truncated PNG"
    yield "60000-by-60000", png(header(60_000, 60_000), pixels()), "(60000, 60000)"
    padding = chunk(b"tEXt", b"Comment\0" + b"x" * 900)
    yield "60000-by-60000-in-1-kb", png(header(60_000, 60_000), padding, pixels()), "(60000, 60000)"
    yield "largest-sides", png(header(2**31 - 1, 2**31 - 1), pixels()), "sides have"
    yield "no-sides", png(header(0, 0), pixels()), "sides have"
    for length in (8, 20, 33, 40, 60, len(good) - 12, len(good) - 1):
        yield f"cut-at-{length}", good[:length], ending
    yield "no-pixels", png(size), "without pixels"
    yield "no-header", png(pixels()), "with a chunk"
    yield "two-headers", png(size, size, pixels()), "with a chunk"
    yield "garbage-pixels", png(size, chunk(b"IDAT", b"garbage" * 20)), "cannot be decoded"
    yield "empty-pixels", png(size, chunk(b"IDAT", b"")), "cannot be decoded"
    for number, offset in enumerate((20, 45, len(good) - 20)):
        flipped = bytearray(good)
        flipped[offset] ^= 0x40
        yield f"flipped-bit-{number}", bytes(flipped), "frame 5 of camera wrist cannot be used"
    yield "16-bit", png(header(WIDTH, HEIGHT, depth=16), pixels(channels=6)), "bit depth 16"
    for mode, colour in (("L", 0), ("1", 0), ("P", 3), ("LA", 4), ("RGBA", 6), ("I;16", 0)):
        yield f"mode-{mode.replace(';', '-')}", encoded(mode, "PNG"), f"colour type {colour}"
    bomb = zlib.compress(bytes(20 * 2**20))
    yield "compressed-text-bomb", png(size, chunk(b"zTXt", b"a\0\0" + bomb), pixels()), "b'zTXt'"
    yield "international-text-bomb", png(size, chunk(b"iTXt", b"a\0\1\0\0\0" + bomb), pixels()), "b'iTXt'"
    yield "profile-bomb", png(size, chunk(b"iCCP", b"a\0\0" + bomb), pixels()), "b'iCCP'"
    yield "pixel-bomb", png(size, chunk(b"IDAT", zlib.compress(bytes(70 * 2**20)))), "more than raw pixels need"
    yield "text-of-1-mb", png(size, chunk(b"tEXt", b"a\0" + b"b" * 2**20), pixels()), "more than raw pixels need"
    yield "5000-chunks", png(size, chunk(b"tIME", bytes(7)) * 5000, pixels()), "chunks"
    yield "unknown-chunk", png(size, chunk(b"EVIL", b""), pixels()), "b'EVIL'"
    two = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    two[0].save(buffer, format="PNG", save_all=True, append_images=two[1:])
    yield "animated", buffer.getvalue(), "b'acTL'"
    yield "with-a-zip-behind", good + b"PK\3\4" + bytes(30), "behind its end"
    for label, (height, width) in {"flat": (5, 8), "turned": (8, 6), "wide": (6, 9), "dot": (1, 1)}.items():
        yield f"size-{label}", frame(height, width), f"has (height, width) ({height}, {width})"


def jpegs() -> Iterator[tuple[str, bytes, str]]:
    good = jpeg()
    scan = good.index(b"\xff\xda")
    for length in (3, 20, scan, scan + 20, len(good) - 2):
        yield f"cut-at-{length}", good[:length], "truncated JPEG"
    yield "headless", good[:3] + b"\xd9\xff\xd9", "damaged JPEG"
    yield "no-scan", good[:scan] + b"\xff\xd9", "damaged JPEG"
    yield "no-size", without_segment(good, 0xC0), "damaged JPEG"
    yield "no-quantization", without_segment(without_segment(good, 0xDB), 0xDB), "cannot be decoded"
    yield "arithmetic", with_marker(good, 0xC0, 0xC9), "unusual kind"
    yield "lossless", with_marker(good, 0xC0, 0xC3), "unusual kind"
    yield "cmyk", encoded("CMYK", "JPEG"), "4 channels"
    yield "grey", encoded("L", "JPEG"), "1 channels"
    huge = bytearray(good)
    place = good.index(b"\xff\xc0") + 5
    huge[place : place + 4] = struct.pack(">HH", 60_000, 60_000)
    yield "60000-by-60000", bytes(huge), "(60000, 60000)"
    progressive = jpeg(progressive=True)
    last = progressive.rindex(b"\xff\xda")
    yield "100-scans", progressive[:last] + progressive[last:-2] * 100 + b"\xff\xd9", "scans"
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT)).save(
        buffer, format="MPO", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))]
    )
    yield "several-pictures", buffer.getvalue(), "several pictures"
    yield "with-a-zip-behind", good + b"PK\3\4" + bytes(30) + b"x", "behind its end"
    yield "with-1-mb-inside", good[:2] + (b"\xff\xfe\xff\xff" + bytes(0xFFFD)) * 16 + good[2:], "more than raw"
    yield "size", encoded("RGB", "JPEG", (9, 9)), "has (height, width) (9, 9)"


def others() -> Iterator[tuple[str, bytes, str]]:
    for form in ("GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO"):
        yield form.lower(), encoded("RGB", form), "neither PNG nor JPEG"
    for label, data in {
        "one-byte": b"\0",
        "html": b"<html><script>alert(1)</script>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "gzip-bomb": zlib.compress(bytes(2**24), wbits=31),
        "zeros": bytes(1000),
        "png-behind-a-byte": b"x" + frame(),
    }.items():
        yield label, data, "neither PNG nor JPEG"
    yield "nothing", b"", "has 0 bytes"


def pictures() -> Iterator[Case]:
    for family, frames in (("png", pngs()), ("jpeg", jpegs()), ("picture", others())):
        for label, data, reason in frames:
            name = f"{family}-{label}"
            yield case(name, reason, with_frames(name, {5: data}))
    for step in (0, STEPS):
        name = f"png-cut-in-frame-{step}"
        yield case(name, f"frame {step} of camera wrist", with_frames(name, {step: frame()[:60]}))
