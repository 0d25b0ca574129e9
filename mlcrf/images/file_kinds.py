"""Kinds of files and folders by name: images, and what a walk leaves out."""

from collections.abc import Iterable
from enum import Enum
from functools import cache
from importlib.util import find_spec

# fmt: off
SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif",
    ".heic", ".heif", ".hif", ".jxl", ".ppm", ".pgm", ".pbm",
})
RAW_SUFFIXES = frozenset({  # images where the extra `raw` is installed
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".k25",
    ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl",
    ".sr2", ".srf", ".srw", ".x3f",
})
# fmt: on
_OF_CAMERAS = frozenset({".jpg", ".jpeg", ".jpe", ".heic", ".heif", ".hif"})


class Kind(Enum):
    """A kind of file or folder that is left out of a walk: its name for one, and for several."""

    RAW = "RAW file", "RAW files"
    RAW_OF_PAIR = "RAW file beside its JPEG", "RAW files beside their JPEGs"
    VIDEO = "video", "videos"
    OTHER_FORMAT = "image in another format", "images in other formats"
    THUMBNAILS = "file or folder of thumbnails", "files and folders of thumbnails"
    BUNDLE = "bundle of a photo program", "bundles of photo programs"
    RECYCLE_BIN = "recycle bin or snapshot", "recycle bins and snapshots"
    LINKED_FOLDER = "linked folder", "linked folders"
    UNREADABLE = "folder that cannot be read", "folders that cannot be read"
    HIDDEN_FOLDER = "hidden folder", "hidden folders"
    HIDDEN_FILE = "hidden file", "hidden files"
    APPLE_DOUBLE = "._ file", "._ files"
    SIDECAR = "sidecar", "sidecars"
    ARCHIVE = "archive", "archives"
    SYSTEM = "system file", "system files"
    OTHER = "other file", "other files"
    REPEATED = "place or link listed already", "places and links listed already"

    @property
    def key(self) -> str:
        """The name in JSON."""
        return self.name.lower()

    def counted(self, count: int) -> str:
        """Return a number of files or folders of this kind, in words."""
        one, several = self.value
        return f"{count:,} {one if count == 1 else several}"


_SUFFIXES_OF = {
    Kind.VIDEO: (
        "3g2 3gp asf avi flv insv lrv m2ts m4v mkv mod mov mp4 mpeg mpg mts mxf ogv tod vob webm "
        "wmv"
    ),
    Kind.OTHER_FORMAT: (
        "afphoto ai bpg dds eps exr fits hdr ico icns j2k jp2 jpf jpx jxr kra pcx pic psb "
        "psd svg tga wdp xcf"
    ),
    Kind.THUMBNAILS: "thm lrprev",
    Kind.SIDECAR: "aae acr arp cos dop nksc on1 pp2 pp3 spd vrd xmp",
    Kind.ARCHIVE: "7z bz2 gz parquet rar tar tgz xz zip",
}
_KIND_OF_SUFFIX = {
    f".{suffix}": kind for kind, suffixes in _SUFFIXES_OF.items() for suffix in suffixes.split()
} | dict.fromkeys(RAW_SUFFIXES, Kind.RAW)
_PICTURES = frozenset({Kind.RAW, Kind.VIDEO, Kind.OTHER_FORMAT})
_COMPANIONS = frozenset({".json", ".txt"})
_BUNDLES = frozenset(
    {
        ".aplibrary",  # Aperture
        ".cocatalog",  # Capture One
        ".cosession",
        ".fcpbundle",  # Final Cut
        ".imovielibrary",
        ".lrdata",  # Lightroom's previews
        ".lrlibrary",
        ".migratedphotolibrary",
        ".photolibrary",  # iPhoto
        ".photoslibrary",  # Apple Photos
    }
)
_KIND_OF_FILE = {
    **dict.fromkeys(("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db"), Kind.THUMBNAILS),
    **dict.fromkeys(
        (".ds_store", ".localized", ".nomedia", ".picasa.ini", "picasa.ini"),
        Kind.SYSTEM,
    ),
    **dict.fromkeys(("desktop.ini", "icon\r", "syno@.fileindexdb"), Kind.SYSTEM),
}
_KIND_OF_FOLDER = {
    **dict.fromkeys(
        ("@eadir", ".thumbnails", ".thumbs", "thumbnails", "thumbs", "_thumbs"),
        Kind.THUMBNAILS,
    ),
    **dict.fromkeys(
        ("#recycle", "$recycle.bin", "@recycle", "recycler", "lost+found", "#snapshot"),
        Kind.RECYCLE_BIN,
    ),
    **dict.fromkeys(
        (".snapshot", ".snapshots", "@recently-snapshot", ".trash", ".trashes", ".dtrash"),
        Kind.RECYCLE_BIN,
    ),
}


def suffix_of(name: str) -> str:
    """Return the suffix of a file name in lower case; quicker than that of a Path."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def stem_of(name: str) -> str:
    """Return a file name without its suffix; quicker than that of a Path."""
    dot = name.rfind(".")
    return name[:dot] if dot > 0 else name


def is_image_name(name: str) -> bool:
    """Return whether a file name has the suffix of an image that can be read, and is not hidden."""
    suffix = suffix_of(name)
    is_read = suffix in SUFFIXES or (suffix in RAW_SUFFIXES and reads_raw())
    return is_read and not name.startswith(".")


def is_picture_name(name: str) -> bool:
    """Return whether a file name has the suffix of an image, read or not, a RAW file or a video."""
    suffix = suffix_of(name)
    return suffix in SUFFIXES or _KIND_OF_SUFFIX.get(suffix) in _PICTURES


def is_raw_name(name: str) -> bool:
    """Return whether a file name has the suffix of a RAW file and is not hidden."""
    return suffix_of(name) in RAW_SUFFIXES and not name.startswith(".")


def stems_beside_raw(names: Iterable[str]) -> frozenset[str]:
    """Return the stems in lower case of files that a camera writes beside a RAW file, as JPEG."""
    found = (name for name in names if suffix_of(name) in _OF_CAMERAS and is_image_name(name))
    return frozenset(stem_of(name).lower() for name in found)


@cache
def reads_raw() -> bool:
    """Return whether the extra `raw` is installed."""
    return find_spec("rawpy") is not None


def is_companion_name(name: str) -> bool:
    """Return whether a file belongs to the image of the same name, if there is one."""
    suffix = suffix_of(name)
    return suffix in _COMPANIONS or _KIND_OF_SUFFIX.get(suffix) is Kind.SIDECAR


def kind_of_file(name: str) -> Kind | None:
    """Return why a walk leaves out a file with this name; None if it is an image."""
    if is_image_name(name):
        return None
    lower = name.lower()
    kind = _KIND_OF_FILE.get(lower)
    if kind is not None:
        return kind
    if lower.startswith("."):
        return Kind.APPLE_DOUBLE if lower.startswith("._") else Kind.HIDDEN_FILE
    return _KIND_OF_SUFFIX.get(suffix_of(name), Kind.OTHER)


def kind_of_folder(name: str) -> Kind | None:
    """Return why a walk leaves out a folder with this name; None if it is entered."""
    lower = name.lower()
    kind = _KIND_OF_FOLDER.get(lower)
    if kind is not None:
        return kind
    if lower.startswith("."):
        return Kind.RECYCLE_BIN if lower.startswith(".trash-") else Kind.HIDDEN_FOLDER
    return Kind.BUNDLE if suffix_of(name) in _BUNDLES else None
