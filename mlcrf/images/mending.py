"""Mend images that viewers show although Pillow refuses them."""

import hashlib
import struct
from collections.abc import Callable
from typing import IO

from PIL import Image as PilImage

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt", b"iCCP"})
_XMP = b"XML:com.adobe.xmp\0\0"  # and not compressed
_END_OF_JPEG = b"\xff\xd9"
_FILLING = b"\xa5" * 4096  # decodes to something else than the end of a JPEG does


def png_without_texts(stream: IO[bytes]) -> bytes:
    """Return a PNG without its texts and colour profile, except XMP.

    Pillow refuses texts of more than 1 MB, such as the workflows of image generators.
    """
    return _png(stream, lambda kind, start: kind not in _PNG_TEXTS or start.startswith(_XMP))


def png_without_pixels(stream: IO[bytes]) -> bytes:
    """Return a PNG with all that stands before and after its pixels, but none of these.

    Pillow reads what stands after them only once it has decoded them.
    """
    return _png(stream, lambda kind, _: kind != b"IDAT") + b"\0\0\0\0IDAT"


def _png(stream: IO[bytes], is_kept: Callable[[bytes, bytes], bool]) -> bytes:
    """Return a PNG with the chunks of which kind and first bytes are accepted."""
    stream.seek(0)
    kept = [stream.read(len(_PNG))]
    while len(head := stream.read(8 + len(_XMP))) >= 8:
        length, kind = struct.unpack(">L4s", head[:8])
        end = stream.tell() - len(head) + 8 + length + 4
        if is_kept(kind, head[8:]):
            stream.seek(-len(head), 1)
            kept.append(stream.read(8 + length + 4))
        stream.seek(end)
    return b"".join(kept)


def jpeg_with_end(content: bytes, decode: Callable[[bytes], PilImage.Image]) -> bytes | None:
    """Return a JPEG with the end marker that it lacks; None if pixels are missing too.

    A decoder that reaches the end of the data invents the pixels that are missing, from zeros or
    from what follows the data. So none is missing if two different ends give the same image.

    Args:
        decode: decodes a JPEG in full.

    Cost: decodes twice.
    """
    data = content.rstrip(b"\0")  # of a download that was never finished
    if data.endswith(b"\xff"):  # half of the marker, or of an escaped 255
        data += b"\0"
    if data.endswith(_END_OF_JPEG):
        return None
    digests = {
        hashlib.sha256(decode(data + filling + _END_OF_JPEG).tobytes()).digest()
        for filling in (b"", _FILLING)
    }
    return data + _END_OF_JPEG if len(digests) == 1 else None
