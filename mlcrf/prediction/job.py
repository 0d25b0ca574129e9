"""What the rows of a table of predictions depend on, besides their images."""

from dataclasses import asdict, dataclass

from mlcrf.decoding import Decoder
from mlcrf.prediction.known import KnownLabels


@dataclass(frozen=True)
class PredictJob:
    """All that decides what is predicted of an image.

    The tagger, a part of an archive and a cluster's worker are given the same job; parts belong to
    one table only if their jobs are equal.

    Attributes:
        run: SHA-256 of the run's weights.
        decoder: how probabilities become labels.
        known: labels that are known; they keep their value and the others follow from them, and
            so do other images of an album. Equal where their sources are.
        album: let images of one folder that were taken close in time inform each other.
        rename: the user's own names, (label, name) each.
        limit: number of images to stop after.
    """

    run: str
    decoder: Decoder = Decoder()
    known: KnownLabels | None = None
    album: bool = False
    rename: tuple[tuple[str, str], ...] = ()
    limit: int | None = None

    def record(self) -> dict[str, object]:
        """Return the job as JSON holds it; jobs are equal where their records are."""
        return {
            "run": self.run,
            "decoder": asdict(self.decoder),
            "album": self.album,
            "rename": [list(pair) for pair in self.rename],
            "limit": self.limit,
            **({} if self.known is None else self.known.source.record()),
        }
