"""Options of files beside photos, and the writers that they ask for."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mlcrf.errors import DataError, MlcrfError, printable
from mlcrf.images import Image
from mlcrf.keywords.collection import collection_keywords
from mlcrf.keywords.retagging import Author
from mlcrf.keywords.sidecar_places import PhotoPlaces
from mlcrf.labels import LabelSpace
from mlcrf.prediction.photo_files.embedded_keywords import EmbeddedKeywords
from mlcrf.prediction.photo_files.photo_file_set import Change, PhotoFileSet, PhotoFileWriter
from mlcrf.prediction.photo_files.sidecars import Sidecars
from mlcrf.prediction.photo_files.tag_files import TagFiles
from mlcrf.prediction.record import Origin
from mlcrf.rules import Rules


@dataclass(frozen=True)
class PhotoFileOptions:
    """Options of files beside photos.

    Attributes:
        xmp: write sidecars.
        txt: write tag files.
        embed: write keywords into images.
        parent: levels above keywords that the images do not have yet, separated by `|`.
        replace_txt: replace tag files that mlcrf did not write, and keep a copy of each.
        dry_run: change nothing, only report.
        report: called with each change of a file.
    """

    xmp: bool = False
    txt: bool = False
    embed: bool = False
    parent: str = ""
    replace_txt: bool = False
    dry_run: bool = False
    report: Callable[[Change], None] | None = None

    def make(
        self,
        places: PhotoPlaces,
        labels: LabelSpace,
        origin: Origin,
        images: Iterable[Image] = (),
    ) -> PhotoFileSet:
        """Make the writers of these kinds of files.

        Args:
            images: the images to tag. The first is checked before work starts; a later image
                without a place for files gets an error of its own. Their keywords are used for
                labels of the same names.

        Raises:
            SettingsError: a file cannot hold the name of a label, or exiftool is not installed.
            DataError: no file can be placed beside the first photo.
        """
        if self.xmp or self.txt:
            for photo in islice(images, 1):
                places.require_room(photo)
        kinds: list[PhotoFileWriter] = []
        if self.xmp or self.embed:
            author = Author(printable(origin.model), origin.digest)
            rules = origin.rules or Rules()
            parent = tuple(level.strip() for level in self.parent.split("|") if level.strip())
            existing = collection_keywords(images, places, labels)
            if self.xmp:
                kinds.append(
                    Sidecars(
                        places,
                        author,
                        labels,
                        rules,
                        parent=parent,
                        existing=existing,
                        dry_run=self.dry_run,
                    )
                )
            if self.embed:
                kinds.append(
                    EmbeddedKeywords(
                        author,
                        labels,
                        rules,
                        parent=parent,
                        existing=existing,
                        dry_run=self.dry_run,
                    )
                )
        if self.txt:
            kinds.append(TagFiles(places, labels, replace=self.replace_txt, dry_run=self.dry_run))
        return PhotoFileSet(kinds, self.report)

    def undo(
        self, photos: Iterable[Image], places: PhotoPlaces, folders: Iterable[Path] = ()
    ) -> tuple[PhotoFileSet, list[str]]:
        """Remove what mlcrf wrote: sidecars and tag files, or only the kinds that are named.

        Args:
            folders: folders in which it is removed beside photos that have been renamed or deleted.

        Returns:
            The number of files per action, and one line per photo with a damaged file.

        Raises:
            DataError: all failed, or no file can be placed beside the first photo.
        """
        kinds: list[PhotoFileWriter] = []
        named = self.xmp or self.txt or self.embed
        if self.xmp or not named:
            kinds.append(Sidecars(places, dry_run=self.dry_run))
        if self.txt or not named:
            kinds.append(TagFiles(places, dry_run=self.dry_run))
        if self.embed:
            kinds.append(EmbeddedKeywords(dry_run=self.dry_run))
        photo_files, faults = PhotoFileSet(kinds, self.report), []
        for number, photo in enumerate(photos):
            if number == 0:
                places.require_room(photo)
            try:
                photo_files.undo(photo)
            except MlcrfError as error:
                faults.append(str(error))
        for folder in folders:
            faults += map(str, photo_files.undo_below(places.mirrored(folder)))
        photo_files.close()
        if faults and not any(counts.total() for counts in photo_files.counts.values()):
            raise DataError("\n".join(["nothing could be undone", *faults]))
        return photo_files, faults
