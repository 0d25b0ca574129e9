"""The settings that a row of predictions depends on, besides its image."""

from dataclasses import asdict, dataclass, replace

from mlcrf.choices import Decision
from mlcrf.decoding import Coverage, Decoder
from mlcrf.errors import SettingsError
from mlcrf.prediction.hinting import HintEvidence
from mlcrf.prediction.known import KnownLabels


@dataclass(frozen=True)
class PredictJob:
    """Everything besides the image that decides its prediction.

    The tagger, a part of an archive and a cluster's worker are given the same job; parts belong to
    one table only if their jobs are equal. So an option that changes predictions is a field here.

    Attributes:
        run: SHA-256 of the run's weights.
        decoder: how probabilities become labels.
        known: known labels, which keep their value; the other labels, and other images of an
            album, are inferred from them. Equal if their sources are equal.
        hints: what other sources say, as log-odds; equal if their tables are equal.
        coverage: of the families of label sets, calibrated; None for no families.
        album: use images from the same folder taken close in time as context for each other.
        rename: the user's own names, as pairs (label, name).
        limit: maximum number of images.

    Raises:
        SettingsError: the decoder chooses for all images together, so that rows depend on others.
    """

    run: str
    decoder: Decoder = Decoder()
    known: KnownLabels | None = None
    album: bool = False
    rename: tuple[tuple[str, str], ...] = ()
    limit: int | None = None
    hints: HintEvidence | None = None
    coverage: Coverage | None = None

    def __post_init__(self) -> None:
        if self.decoder.rule is Decision.F1_OF_MEANS:
            raise SettingsError(
                "--decode f1-of-means chooses for all images together, which is for evaluate and "
                "report; tag images with --decode top-k --top-k NUMBER --rarity auto"
            )

    def record(self) -> dict[str, object]:
        """Return the job as a JSON object; jobs are equal if their records are equal."""
        values = asdict(replace(self, known=None, hints=None))
        del values["known"], values["hints"]
        if self.coverage is None:  # equal to jobs of versions without it
            del values["coverage"]
        if self.hints is not None:
            values["hints"] = dict(self.hints.tables)
        values["rename"] = [list(pair) for pair in self.rename]
        return values | ({} if self.known is None else self.known.source.record())
