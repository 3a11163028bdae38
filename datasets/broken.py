"""Broken files for the demo, each made from a real one: what producers really send, and what must not stop a line."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path


def make(data: Path) -> dict[str, bytes]:
    """Name -> content. The same files give the same bytes."""
    jpeg = (data / "images" / "nature-Dune.jpg").read_bytes()
    png = (data / "images" / "classic-coffee.png").read_bytes()
    wav = min((data / "audio" / "allison").glob("*.wav")).read_bytes()
    text = (data / "text" / "debian-social-contract.txt").read_bytes()
    return {
        # The upload broke off, at different depths.
        "cut-in-header.jpg": jpeg[:300],
        "cut-in-half.jpg": jpeg[: len(jpeg) // 2],
        "cut-in-half.png": png[: len(png) // 2],
        "cut-in-header.wav": wav[:30],
        "empty.jpg": b"",
        "empty.wav": b"",
        "empty.txt": b"",
        # Something else than the name says.
        "text.jpg": text,
        "picture.wav": png,
        "picture.txt": png,
        # A few hundred bytes that claim 3.6 billion pixels.
        "bomb.png": png_bomb(60_000, 60_000),
        # One wrong byte in the middle of the compressed pixels: the checksum does not fit.
        "flipped.png": flipped(png),
        # A header without frames behind it, and one that promises samples of no length.
        "cut-in-header.flac": flac_header(),
        "no-channels.wav": wav[:22] + b"\0\0" + wav[24:4000],
        # Not UTF-8: Latin-1, and a byte that no encoding has there.
        "latin1.txt": "Straße, café, naïve façade: garçon!\n".encode("latin-1") * 20,
        "stray-byte.txt": text[:200] + b"\xff\xfe\xfd" + text[200:],
        "blank.txt": b" \n\t\n" * 50,
    }


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_bomb(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def flipped(png: bytes) -> bytes:
    middle = len(png) // 2
    return png[:middle] + bytes([png[middle] ^ 0xFF]) + png[middle + 1 :]


def flac_header() -> bytes:
    """STREAMINFO: blocks of 4096 samples, 16 kHz, one channel, 16 bits, 160,000 samples. No frame follows."""
    rate_channels_bits_samples = (16_000 << 44) | (0 << 41) | (15 << 36) | 160_000
    body = struct.pack(">HH", 4096, 4096) + bytes(6) + rate_channels_bits_samples.to_bytes(8, "big") + bytes(16)
    return b"fLaC" + bytes([0x80]) + len(body).to_bytes(3, "big") + body
