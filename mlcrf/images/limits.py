"""Limits on what is decoded: memory, and pixels per byte of a file."""

# An image may take up to this much memory. What decoders and conversions take per pixel was
# measured: a WebP is decoded from memory and to a copy. A JPEG is decoded at reduced size, but the
# coefficients of a progressive one are kept at full size.
_MOST_BYTES = 3_000_000_000
_BYTES_PER_PX = {"JPEG": 9, "MPO": 9, "WEBP": 18}
_BYTES_PER_PX_ELSE = 13
JPEGS = frozenset({"JPEG", "MPO"})

# Images with more pixels need enough bytes: black pages of a few kilobytes would take gigabytes of
# memory. Black and white takes a quarter of the memory of colours.
_LARGE_PX = 16_000_000
_LARGE_PX_BILEVEL = 48_000_000
# Larger JPEGs need enough bytes, too, although they are reduced: one of several scans is kept.
KEPT_PX = 48_000_000
# Photos have 0.2 to 20; black has 28 and more in TIFF, 60 and more in CMYK, else 170 to 60,000.
_MOST_PX_PER_BYTE = 100
_MOST_PX_PER_BYTE_PRINT = 25  # TIFF and CMYK, which compress photos less


def refuse_bomb(pixels: int, file_bytes: int, *, mode: str = "", kind: str = "") -> None:
    """Refuse an image with many pixels to decode and very few bytes.

    Args:
        mode, kind: mode and format of the image, as Pillow names them.

    Raises:
        OSError: it is one.
    """
    bilevel = mode == "1"
    printed = mode == "CMYK" or (kind == "TIFF" and not bilevel)
    most = _MOST_PX_PER_BYTE_PRINT if printed else _MOST_PX_PER_BYTE
    large = pixels > (_LARGE_PX_BILEVEL if bilevel else _LARGE_PX)
    if large and pixels > most * file_bytes:
        raise OSError(
            f"{pixels / 1e6:.0f} million pixels in {file_bytes:,} bytes: a decompression bomb, or "
            "an empty page; save it smaller"
        )


def refuse_large(pixels: int, *, kind: str = "") -> None:
    """Refuse an image that could take too much memory.

    Args:
        pixels: number of pixels before any reduction.
        kind: format of the image, as Pillow names it.

    Raises:
        OSError: it could.
    """
    per_pixel = _BYTES_PER_PX.get(kind, _BYTES_PER_PX_ELSE)
    if pixels * per_pixel > _MOST_BYTES:
        remedy = "smaller" if kind in JPEGS else "smaller, or as JPEG"
        raise OSError(
            f"{pixels / 1e6:.0f} million pixels could take {pixels * per_pixel / 1e9:.1f} GB of "
            f"memory; up to {_MOST_BYTES / per_pixel / 1e6:.0f} million are read of this format; "
            f"save it {remedy}"
        )
