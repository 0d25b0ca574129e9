"""Images: the value `image.Image`, wherever its content is; listing and decoding them."""

from mlcrf.images.containers import as_image
from mlcrf.images.image import Image, ImageBytes, LocalImage
from mlcrf.images.listing import ListedImages, list_images

__all__ = ["Image", "ImageBytes", "ListedImages", "LocalImage", "as_image", "list_images"]
