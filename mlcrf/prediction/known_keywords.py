"""What the keywords that photos carry say of them."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from mlcrf.errors import DataError
from mlcrf.images import Image
from mlcrf.keywords.photo_keywords import read_keywords
from mlcrf.keywords.sidecar_places import PhotoPlaces
from mlcrf.labels import fold
from mlcrf.prediction.selection import LabelSelection


class KnownKeywords:
    """Labels that are among a photo's keywords are present; of others nothing is said.

    Keywords are read when a photo's turn comes. Those that mlcrf wrote itself do not count.

    Args:
        selection: the labels and their names, by either of which they are found.
        places: where sidecars are looked for, beside the photos and in a parallel tree.

    Attributes:
        unreadable: what was wrong with photos whose keywords could not be read; a line each.
    """

    def __init__(
        self,
        selection: LabelSelection,
        places: Iterable[PhotoPlaces],
    ) -> None:
        self.unreadable: list[str] = []
        self._places = tuple(places)
        labels = selection.labels
        self._implied = [
            list(selection.implications.with_parents([column])) for column in range(len(labels))
        ]
        names = (*enumerate(selection.given), *enumerate(labels))  # the latter win
        self._column = {fold(name): at for at, name in names}

    def fill(self, row: NDArray[np.int8], photo: Image) -> None:
        """Set what the keywords say in (L,) labels, in place.

        A keyword that goes against what the row says already is left aside.
        """
        found = dict.fromkeys(one.existing_sidecar(photo) for one in self._places)
        sidecars = [place for place in found if place]
        try:
            keywords = read_keywords(photo, *sidecars)
        except DataError as error:
            self.unreadable.append(str(error))
            return
        for keyword in keywords:
            column = self._column.get(fold(keyword))
            if column is not None and (row[self._implied[column]] != 0).all():
                row[column] = 1
