"""Keywords of photos: read from pictures and XMP sidecars, written to sidecars."""

from mlcrf.metadata.containers import (
    container_of,
    find_containers,
    find_member,
    find_picture_tables,
    find_tars,
    is_parquet,
    is_tar,
    members,
    reading_unit,
)
from mlcrf.metadata.keywords import damaged, load_sidecar, read_keywords, shown
from mlcrf.metadata.pictures import open_picture, picture_source
from mlcrf.metadata.places import PhotoPlaces
from mlcrf.metadata.retagging import Author, Retagged, Tag, require_taggable, retag

__all__ = [
    "Author",
    "PhotoPlaces",
    "Retagged",
    "Tag",
    "container_of",
    "damaged",
    "find_containers",
    "find_member",
    "find_picture_tables",
    "find_tars",
    "is_parquet",
    "is_tar",
    "load_sidecar",
    "members",
    "open_picture",
    "picture_source",
    "read_keywords",
    "reading_unit",
    "require_taggable",
    "retag",
    "shown",
]
