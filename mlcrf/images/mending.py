"""Mend images that viewers show although Pillow refuses them."""

import hashlib
import struct
from collections.abc import Callable

from PIL import Image as PilImage

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_TEXT = frozenset({b"tEXt", b"zTXt", b"iTXt", b"iCCP"})
_XMP = b"XML:com.adobe.xmp\0\0"  # and not compressed
_END_OF_JPEG = b"\xff\xd9"
_FILLING = b"\xa5" * 4096  # decodes to something else than the end of a JPEG does


def png_without_texts(content: bytes) -> bytes:
    """Return a PNG without its texts and colour profile, except XMP.

    Pillow refuses texts of more than 1 MB, such as the workflows of image generators.
    """
    kept, place = [_PNG], len(_PNG)
    while place + 8 <= len(content):
        length, kind = struct.unpack(">L4s", content[place : place + 8])
        end = place + 12 + length
        is_xmp = content.startswith(_XMP, place + 8)
        if kind not in _PNG_TEXT or is_xmp:
            kept.append(content[place:end])
        place = end
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
