"""Images by the addresses in requests of other programs; nothing is fetched from the network."""

import binascii
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from mlcrf.errors import DataError
from mlcrf.images import Image, ImageBytes
from mlcrf.images.image import LocalImage

_LOCAL_FILES = "/data/local-files/"  # paths of Label Studio's own server
_UPLOADED = "/data/upload/"


def image_in(url: str) -> ImageBytes:
    """Return the image that a `data:` URL holds in base64.

    Raises:
        DataError: another URL, or not base64.
    """
    head, sign, text = url.partition(",")
    if not head.startswith("data:"):
        raise DataError("no images are fetched from the network; send the image as a data: URL")
    if not sign or not head.endswith(";base64"):
        raise DataError("expected a data: URL in base64, such as data:image/jpeg;base64,...")
    try:
        return ImageBytes("image", binascii.a2b_base64(text, strict_mode=True))
    except (binascii.Error, ValueError) as error:
        raise DataError(f"data: URL: not base64: {error}") from error


def label_studio_image(address: str, root: Path | None) -> Image:
    """Return the image of a task: a `data:` URL, or a file of Label Studio below a folder.

    `/data/local-files/?d=dir/a.jpg` is `dir/a.jpg` below it, `/data/upload/1/a.jpg` is
    `upload/1/a.jpg`, at any host. Links that lead out of the folder are not followed.

    Args:
        root: None if no file may be read.

    Raises:
        DataError: any other address, or no such file below the folder.

    Source: https://labelstud.io/guide/storage, Local storage; for uploads, `upload_name_generator`
    in label_studio/data_import/models.py of its repository.
    """
    if address.startswith("data:"):
        return image_in(address)
    parts = urlsplit(address)
    if parts.path == _LOCAL_FILES:
        inside = parse_qs(parts.query).get("d", [""])[0]
    elif parts.path.startswith(_UPLOADED):
        inside = unquote(parts.path.removeprefix("/data/"))
    else:
        raise DataError(
            "is neither a data: URL nor a file of Label Studio (/data/local-files/?d=..., "
            "/data/upload/...); images are not fetched from other places"
        )
    if root is None:
        raise DataError("is a file of Label Studio; name its folder with --image-root")
    try:
        place = (root / inside.lstrip("/")).resolve()
        is_inside = place.is_relative_to(root.resolve()) and place.is_file()
    except (OSError, ValueError):  # no file can have this name
        is_inside = False
    if not is_inside:
        raise DataError("there is no such file below --image-root")
    return LocalImage(str(place))
