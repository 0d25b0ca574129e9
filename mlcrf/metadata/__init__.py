"""Keywords of photos: read from pictures and XMP sidecars, written to sidecars."""

from mlcrf.metadata.containers import find_member, is_tar, members
from mlcrf.metadata.keywords import damaged, load_sidecar, read_keywords, shown
from mlcrf.metadata.pictures import open_picture, picture_bytes
from mlcrf.metadata.places import PhotoPlaces
from mlcrf.metadata.retagging import Author, Retagged, Tag, require_taggable, retag

__all__ = [
    "Author",
    "PhotoPlaces",
    "Retagged",
    "Tag",
    "damaged",
    "find_member",
    "is_tar",
    "load_sidecar",
    "members",
    "open_picture",
    "picture_bytes",
    "read_keywords",
    "require_taggable",
    "retag",
    "shown",
]
