"""The keywords that a collection of images has already, for labels of the same names."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from mlcrf.errors import DataError
from mlcrf.images import Image
from mlcrf.keywords.embedded import embedded_packet
from mlcrf.keywords.keyword_lists import LISTS, KeywordPath, OwnKeywords, fold_level
from mlcrf.keywords.photo_keywords import load_sidecar
from mlcrf.keywords.sidecar_places import PhotoPlaces
from mlcrf.keywords.xmp import Packet

_HEAD = 256 * 2**10
_RDF = b"http://www.w3.org/1999/02/22-rdf-syntax-ns#"  # in all XMP
_LIST_NAMES = tuple(one.keywords.name.encode() for one in LISTS)


def collection_keywords(
    images: Iterable[Image], places: PhotoPlaces, names: Iterable[str]
) -> dict[str, KeywordPath]:
    """Return the keyword of a collection for each name that it has, without regard to case.

    A name is looked for at every level of the person's keywords. Of several keywords with it, one
    with levels comes first, then the most frequent.

    Args:
        images: the collection; their sidecars are read, and images that begin with XMP.

    Returns:
        Keywords in the person's spelling, by folded name.
    """
    wanted = {fold_level(name) for name in names}
    counts: dict[str, Counter[KeywordPath]] = defaultdict(Counter)
    for packet in (packet for image in images for packet in _packets(image, places)):
        for path in OwnKeywords(packet).paths:
            for end, level in enumerate(path, start=1):
                if fold_level(level) in wanted:
                    counts[fold_level(level)][path[:end]] += 1
    return {
        name: min(paths, key=lambda path: (len(path) == 1, -paths[path], path))
        for name, paths in counts.items()
    }


def _packets(image: Image, places: PhotoPlaces) -> Iterator[Packet]:
    """Yield the metadata of an image; what is damaged is reported where the image is tagged."""
    try:
        sidecar = places.existing_sidecar(image)
        if sidecar:
            yield Packet(load_sidecar(sidecar))
        elif _may_have_keywords(image):
            yield embedded_packet(image)
    except (DataError, ValueError):
        return


def _may_have_keywords(image: Image) -> bool:
    """Return whether the start of a file names a list of keywords; opening each takes longer."""
    if image.path is None:
        return False
    try:
        with image.open() as stream:
            head = stream.read(_HEAD)
    except OSError:
        return False
    return _RDF in head and any(name in head for name in _LIST_NAMES)
