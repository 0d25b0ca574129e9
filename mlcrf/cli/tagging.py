"""What `predict`, `tag` and `convert` share: known labels, the job, and tables read back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlcrf.cli import console
from mlcrf.cli.options import (
    KNOWN,
    DecisionOptions,
    RuntimeOptions,
    SelectionOptions,
    parse_data,
    read_options,
)

if TYPE_CHECKING:
    from mlcrf.checkpoint import Run
    from mlcrf.images import ListedImages
    from mlcrf.prediction import LabelSelection, Origin, PredictionTable, PredictJob, Tagger
    from mlcrf.stores import Stored


@dataclass(frozen=True)
class KnownOptions:
    """The labels that are known before the model is asked."""

    given: Annotated[
        str | None,
        typer.Option(
            help="Labels known for every image, such as `sea=1,indoor=0`.", rich_help_panel=KNOWN
        ),
    ] = None
    known: Annotated[
        str | None,
        typer.Option(
            help="Labels known for some images: any table or folder that `train` reads. A list of "
            "labels names those present and leaves the others unknown.",
            rich_help_panel=KNOWN,
        ),
    ] = None
    known_keywords: Annotated[
        bool,
        typer.Option(
            "--known-keywords",
            help="Labels among the keywords that a person gave an image, in XMP, IPTC or a "
            "sidecar, are present.",
            rich_help_panel=KNOWN,
        ),
    ] = False
    image_root: Annotated[
        str | None,
        typer.Option(
            help="Folder or s3:// URL that image paths of --known are relative to.",
            rich_help_panel=KNOWN,
        ),
    ] = None
    label_sep: Annotated[
        str | None,
        typer.Option(help="Separator of labels in a column of --known.", rich_help_panel=KNOWN),
    ] = None

    def make_job(
        self,
        run: "Run",
        selection: "LabelSelection",
        decision: DecisionOptions,
        *,
        album: bool,
        limit: int | None,
        sidecar_dir: Path | None,
        named: Sequence[Path],
    ) -> "PredictJob":
        """Read what is known, and return the job.

        Args:
            named: the folders and images on disks that the user named.

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
                run.implications,
                given=self.given,
                table=None if self.known is None else parse_data(self.known),
                keywords=keywords,
                options=read_options(run.label_set, self.image_root, self.label_sep, None),
                sidecar_dir=sidecar_dir,
            )
        renamed = tuple(sorted(selection.renamed.items()))
        return PredictJob(run.digest, decision.make_decoder(), known, album, renamed, limit)

    def note_if_unused(self, job: "PredictJob", images: "ListedImages") -> None:
        """Say so if --known names none of the images."""
        if job.known is not None and job.known.of_photo and not job.known.covers(images):
            console.note(f"{self.known} says nothing of these images; are its paths right?")


def make_tagger(run: "Run", job: "PredictJob", runtime: RuntimeOptions) -> "Tagger":
    """Return what tags images here."""
    from mlcrf.backbones.engines import pick_device
    from mlcrf.prediction import Tagger

    device = pick_device(runtime.device)
    return Tagger(run, job, engine=runtime.engine, device=device, cache_dir=runtime.cache)


def origin_of(run: "Run", selection: "LabelSelection") -> "Origin":
    """Return what a table says of the run that made it."""
    from mlcrf.prediction import Origin

    return Origin(run.path.resolve().name, run.digest, selection.implications)


@dataclass(frozen=True)
class ReadTable:
    """A table of predictions, and the selection of its labels that is written."""

    table: "PredictionTable"
    selection: "LabelSelection"
    origin: "Origin"


def read_table(
    place: "Path | Stored",
    model: Path | None,
    selected: SelectionOptions,
    *,
    probabilities: bool,
) -> ReadTable:
    """Read a table of predictions, and the implications of the run that made it.

    Args:
        model: the run, where the table does not say which it was.
        probabilities: whether they are needed.

    Raises:
        MlcrfError: everything that is wrong with the table; the run's labels are others.
    """
    from mlcrf.checkpoint import load_run
    from mlcrf.implications import Implications
    from mlcrf.prediction import Origin, read_predictions

    run = None if model is None else load_run(model)
    table = read_predictions(
        place, labels=None if run is None else run.labels, probabilities=probabilities
    )
    origin = table.origin
    if run is not None:
        run.labels.columns_in(table.labels)
        rules = Implications.from_names(run.implications.names(run.labels), table.labels)
        origin = Origin(run.path.resolve().name, run.digest, rules)
    elif origin.implications is None and selected != SelectionOptions(selected.rename):
        console.note(f"{place} does not say which labels imply others; --model names its run")
    selection = selected.make_selection(table.labels, origin.implications or Implications())
    origin = replace(origin, model=origin.model or place.name, implications=selection.implications)
    return ReadTable(table, selection, origin)


def note_unreadable(job: "PredictJob | None") -> None:
    """Name the images whose keywords could not be read."""
    keywords = None if job is None or job.known is None else job.known.keywords
    for fault in keywords.unreadable if keywords is not None else ():
        console.note(f"{fault}; tagged without them")
