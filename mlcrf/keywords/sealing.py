"""Keep a sidecar's earlier content inside it, and tell whether anybody has changed it since.

The copy goes wherever the file goes: it is found again after the image or a folder has been renamed
or moved, and it is written at the same moment as the change that it takes back.
"""

import hashlib
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from zlib import compress, decompressobj
from zlib import error as ZlibError  # noqa: N812 - an exception

from mlcrf.keywords.xmp import MAX_BYTES, OURS, Packet, Property

_EARLIER, _SEAL = Property(OURS, "earlierSidecar"), Property(OURS, "seal")
_NO_FILE = "none"
_OPEN = "sha256:" + "0" * 64
_SEALED = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_KEPT = 4 * 2**20


@dataclass(frozen=True)
class Earlier:
    """The content of a sidecar before we changed it; None if there was no sidecar."""

    content: bytes | None


def seal(packet: Packet, earlier: Earlier) -> bytes:
    """Return the packet as a file that holds the earlier content, compressed, and its own hash.

    An earlier content that has more than 4 MB when compressed is not kept, nor one with which the
    file would be larger than a sidecar may be.
    """
    kept = _NO_FILE if earlier.content is None else b64encode(compress(earlier.content, 9)).decode()
    if len(kept) > _MAX_KEPT:
        return packet.to_bytes()
    packet.set_text(_EARLIER, kept)
    packet.set_text(_SEAL, _OPEN)
    content = packet.to_bytes()
    if len(content) > MAX_BYTES:
        packet.discard(_EARLIER)
        packet.discard(_SEAL)
        return packet.to_bytes()
    return content.replace(_OPEN.encode(), _digest(content).encode())


def unseal(raw: bytes, packet: Packet) -> Earlier | None:
    """Return the earlier content if nobody changed the file since `seal`; else None."""
    seals, kept = packet.values(_SEAL), packet.values(_EARLIER)
    if len(seals) != 1 or len(kept) != 1 or not _SEALED.fullmatch(seals[0]):
        return None
    content = raw.replace(seals[0].encode(), _OPEN.encode())
    if seals[0] != _digest(content):
        return None
    if kept[0] == _NO_FILE:
        return Earlier(None)
    try:
        return Earlier(decompressobj().decompress(b64decode(kept[0]), MAX_BYTES))
    except (ValueError, ZlibError):
        return None


def without_wrapper(content: bytes) -> bytes:
    """Return XMP without the instructions around it, which are changed when an image gets it."""
    return re.sub(rb"<\?x(packet|ml) .*?\?>", b"", content).strip(b"\0 \r\n")


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(without_wrapper(content)).hexdigest()}"
