"""What `predict`, `tag`, `convert` and `serve` share: the tagger, and tables read back."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlcrf.cli import console
from mlcrf.cli.options import RuntimeOptions, SelectionOptions

if TYPE_CHECKING:
    from mlcrf.checkpoint import Run
    from mlcrf.prediction import LabelSelection, Origin, PredictionTable, PredictJob, Tagger
    from mlcrf.stores import Stored


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
