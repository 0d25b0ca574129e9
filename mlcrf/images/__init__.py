"""Images: the value `image.Image`, wherever its content is; listing and decoding them."""

from mlcrf.images.containers import as_image
from mlcrf.images.image import Image, ImageBytes, LocalImage, open_regular
from mlcrf.images.left_out import LeftOut
from mlcrf.images.listing import ListedImages, list_images, list_named

__all__ = [
    "Image",
    "ImageBytes",
    "LeftOut",
    "ListedImages",
    "LocalImage",
    "as_image",
    "list_images",
    "list_named",
    "open_regular",
]
