"""Options of what is known of images: labels, hints, albums."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from mlcrf.cli import console
from mlcrf.cli.mistakes import refuse_run
from mlcrf.cli.options.data import ReadingOptions, parse_data, show_reading
from mlcrf.cli.options.decision import (
    CoverageOptions,
    DecisionOptions,
    make_coverage,
    make_decoder,
)
from mlcrf.cli.options.grouping import KNOWN

if TYPE_CHECKING:
    from mlcrf.checkpoint import Run
    from mlcrf.images import ListedImages
    from mlcrf.prediction import KnownAnswers, LabelSelection, PredictJob
    from mlcrf.prediction.hinting import HintEvidence
    from mlcrf.stores import Stored

_DATABASES = ("sqlite:", "postgres:", "postgresql:", "postgresql+")
HintTables = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]TABLE",
        help="Tags by another source, which may be wrong: trusted as far as the run has "
        "learned to, by `mlcrf train --hints`; may be repeated.",
        rich_help_panel=KNOWN,
    ),
]


def read_evidence(
    run: "Run", texts: list[str] | None, reading: ReadingOptions
) -> "HintEvidence | None":
    """Read the tables of --hints; return what they add to the labels of images.

    Raises:
        MlcrfError: a table cannot be read, or the run does not know its source.
    """
    if not texts:
        return None
    from mlcrf.data.hint_tables import parse_hints, read_hints
    from mlcrf.prediction.hinting import match_sources, weigh_hints

    tables = match_sources(run, parse_hints(texts))
    how = reading.make(run.label_set, run_features=run.backbone_spec.features)
    return weigh_hints(run, read_hints(tables, run.labels, how, tell=show_reading), tables)


@dataclass(frozen=True)
class KnownOptions:
    """Labels that are known without the model, and images that inform each other."""

    panel: ClassVar[str] = KNOWN

    given: Annotated[
        str | None, typer.Option(help="Labels known for every image, such as `sea=1,indoor=0`.")
    ] = None
    known: Annotated[
        str | None,
        typer.Option(
            help="Labels known for some images: any table or folder that `train` reads, or a "
            "database of `mlcrf review` (sqlite:///tags.db). Labels missing from a list of labels "
            "are unknown, not absent."
        ),
    ] = None
    known_keywords: Annotated[
        bool,
        typer.Option(
            "--known-keywords",
            help="Labels among an image's keywords (XMP, IPTC or sidecar, not by mlcrf) are "
            "present.",
        ),
    ] = False
    image_root: Annotated[
        str | None,
        typer.Option(help="Folder or s3:// URL that image paths of --known are relative to."),
    ] = None
    label_sep: Annotated[
        str | None, typer.Option(help="Separator of labels in a column of --known.")
    ] = None
    hints: HintTables = None
    album: Annotated[
        bool,
        typer.Option(
            "--album",
            help="Use images from the same folder taken close in time as context for each other; "
            "needs a run that was trained with --album.",
        ),
    ] = False

    def __post_init__(self) -> None:
        for option, value in (("--image-root", self.image_root), ("--label-sep", self.label_sep)):
            if value is not None and self.known is None and not self.hints:
                raise typer.BadParameter(f"{option} is for --known; give both, or leave it out")

    def make_job(
        self,
        run: "Run",
        selection: "LabelSelection",
        decision: DecisionOptions,
        limit: int | None,
        *,
        sidecar_dir: Path | None,
        named: Sequence[Path],
        families: CoverageOptions = CoverageOptions(),
    ) -> "PredictJob":
        """Read the known labels, and make the job.

        Args:
            named: the local folders and images that the user named.

        Raises:
            MlcrfError: known labels cannot be read, or contradict each other.
        """
        from mlcrf.keywords.sidecar_places import PhotoPlaces
        from mlcrf.prediction import KnownKeywords, PredictJob, read_known

        places = [PhotoPlaces(), PhotoPlaces(sidecar_dir, named)]
        keywords = KnownKeywords(selection, places) if self.known_keywords else None
        known = None
        if self.given is not None or self.known is not None or keywords is not None:
            known = read_known(
                run.labels,
                run.rules,
                given=self.given,
                table=None if self.known is None else self._known_labels(run, named),
                keywords=keywords,
                options=ReadingOptions(self.image_root, self.label_sep).make(
                    run.label_set, run_features=run.backbone_spec.features
                ),
                tell=show_reading,
                sidecar_dir=sidecar_dir,
            )
        renamed = tuple(sorted(selection.renamed.items()))
        hints = read_evidence(run, self.hints, ReadingOptions(self.image_root, self.label_sep))
        is_known = known is not None or hints is not None or self.album
        decoder = make_decoder(run, decision, is_known=is_known)
        coverage = make_coverage(run, families, is_known=is_known)
        return PredictJob(run.digest, decoder, known, self.album, renamed, limit, hints, coverage)

    def _known_labels(self, run: "Run", named: Sequence[Path]) -> "Path | Stored | KnownAnswers":
        """Return the table of --known, or the answers in a database of a review."""
        assert self.known is not None
        if not self.known.startswith(_DATABASES):
            refuse_run(self.known, "a table for --known", "Its images are in splits.csv.")
            return parse_data(self.known)
        console.require_extra("review", "sqlalchemy")
        from mlcrf.prediction import KnownAnswers
        from mlcrf.review.review_reader import read_answers

        manifest = read_answers(self.known, run.labels, named)
        return KnownAnswers(manifest, self.known.rpartition("@")[2])

    def note_if_unused(self, job: "PredictJob", images: "ListedImages") -> None:
        """Print a note if --known names none of the images."""
        if job.known is not None and job.known.of_photo and not job.known.covers(images):
            console.note(f"{self.known} has no row for these images; check its image paths")
