"""Steps shared by `predict`, `tag`, `convert` and `serve`: the tagger, and tables read back."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlcrf.cli import console
from mlcrf.cli.options import RuntimeOptions, SelectionOptions, load_run
from mlcrf.cli.progress import advance

if TYPE_CHECKING:
    from mlcrf.checkpoint import Run
    from mlcrf.prediction import LabelSelection, Origin, PredictionTable, PredictJob, Tagger
    from mlcrf.stores import Stored


def make_tagger(
    run: "Run", job: "PredictJob", runtime: RuntimeOptions, *, information: bool = False
) -> "Tagger":
    """Make the tagger of this process; see `Tagger` for `information`."""
    from mlcrf.backbones.engines import pick_device
    from mlcrf.prediction import Tagger

    device = pick_device(runtime.device)
    return Tagger(
        run,
        job,
        engine=runtime.engine,
        device=device,
        cache_dir=runtime.cache,
        information=information,
        on_image=advance,
    )


def origin_of(run: "Run", selection: "LabelSelection", job: "PredictJob") -> "Origin":
    """Return the origin that is stored with predictions of a run."""
    from mlcrf.prediction import Origin

    decoder = job.decoder
    plain = decoder.guarantee is None and decoder.costs is None
    decision = "" if plain else decoder.signature
    if job.coverage is not None:
        decision += f"{'|' if decision else ''}coverage:{job.coverage}"
    return Origin(run.path.resolve().name, run.digest, selection.rules, decision)


@dataclass(frozen=True)
class ReadTable:
    """A table of predictions, and the labels to write."""

    table: "PredictionTable"
    selection: "LabelSelection"
    origin: "Origin"


def read_table(
    place: "Path | Stored", model: Path | None, selected: SelectionOptions, *, probabilities: bool
) -> ReadTable:
    """Read a table of predictions, and the rules of the run that made it.

    Args:
        model: the run that made the table, if the table does not name it.
        probabilities: whether columns of probabilities are required.

    Raises:
        MlcrfError: all errors of the table, or its labels differ from the run's.
    """
    from mlcrf.prediction import Origin, read_predictions
    from mlcrf.rules import Rules

    run = None if model is None else load_run(model)
    table = read_predictions(
        place, labels=None if run is None else run.labels, probabilities=probabilities
    )
    origin = table.origin
    if run is not None:
        run.labels.columns_in(table.labels)
        rules = Rules.from_names(run.rules.names(run.labels), table.labels)
        origin = Origin(run.path.resolve().name, run.digest, rules)
    elif origin.rules is None and selected != SelectionOptions(selected.rename):
        console.note(f"{place} does not state which labels imply others; name its run with --model")
    selection = selected.make_selection(table.labels, origin.rules or Rules())
    origin = replace(origin, model=origin.model or place.name, rules=selection.rules)
    return ReadTable(table, selection, origin)


def note_unreadable(job: "PredictJob | None") -> None:
    """Print a note per image whose keywords could not be read."""
    keywords = None if job is None or job.known is None else job.known.keywords
    for fault in keywords.unreadable if keywords is not None else ():
        console.note(f"{fault}; tagged without them")
