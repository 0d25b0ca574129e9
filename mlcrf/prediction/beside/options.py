"""Which files beside photos are wanted, and taking them back."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mlcrf.checkpoint import Run
from mlcrf.errors import DataError, MlcrfError, printable
from mlcrf.images import Image
from mlcrf.keywords.retagging import Author
from mlcrf.keywords.sidecar_places import PhotoPlaces
from mlcrf.prediction.beside.files import Beside, Change, PhotoFiles
from mlcrf.prediction.beside.sidecars import Sidecars
from mlcrf.prediction.beside.tag_files import TagFiles
from mlcrf.prediction.selection import LabelSelection


@dataclass(frozen=True)
class BesideOptions:
    """What is written beside photos.

    Attributes:
        xmp, txt: whether sidecars and tag files are.
        overwrite: whether tag files that are not ours are replaced.
        dry_run: change nothing, only report.
        report: is told each change of a file.
    """

    xmp: bool = False
    txt: bool = False
    overwrite: bool = False
    dry_run: bool = False
    report: Callable[[Change], None] | None = None

    def make(
        self,
        places: PhotoPlaces,
        selection: LabelSelection,
        run: Run,
        photos: Iterable[Image] = (),
    ) -> Beside:
        """The files of these kinds, to be written with the labels of a run.

        Args:
            photos: those that will be tagged. The first is looked at before the work; another
                that has no place for files is an error of its own.

        Raises:
            SettingsError: a label whose name one of them cannot hold.
            DataError: no file can be put beside the first photo.
        """
        if self.xmp or self.txt:
            _require_room(places, photos)
        kinds: list[PhotoFiles] = []
        if self.xmp:
            rules = selection.implications
            author = Author(printable(Path(run.path.resolve().name)), run.digest)
            kinds.append(Sidecars(places, author, selection.labels, rules, dry_run=self.dry_run))
        if self.txt:
            kinds.append(
                TagFiles(places, selection.labels, overwrite=self.overwrite, dry_run=self.dry_run)
            )
        return Beside(kinds, self.report)

    def undo(self, photos: Iterable[Image], places: PhotoPlaces) -> tuple[Beside, list[str]]:
        """Take out of files beside photos what we put there; of both kinds if neither is named.

        Returns:
            How many files had which fate, and a line for each photo of which one is damaged.

        Raises:
            DataError: there was nothing but faults, or no file can be beside the first photo.
        """
        kinds: list[PhotoFiles] = []
        if self.xmp or not self.txt:
            kinds.append(Sidecars(places, dry_run=self.dry_run))
        if self.txt or not self.xmp:
            kinds.append(TagFiles(places, dry_run=self.dry_run))
        beside, faults = Beside(kinds, self.report), []
        for number, photo in enumerate(photos):
            if number == 0:
                places.require_room(photo)
            try:
                beside.undo(photo)
            except MlcrfError as error:
                faults.append(str(error))
        beside.close()
        if faults and not any(counts.total() for counts in beside.counts.values()):
            raise DataError("\n".join(["nothing could be undone", *faults]))
        return beside, faults


def _require_room(places: PhotoPlaces, photos: Iterable[Image]) -> None:
    for photo in islice(photos, 1):
        places.require_room(photo)
