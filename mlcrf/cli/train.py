"""`mlcrf train`: train on a data set, and write a run directory."""

import functools
import inspect
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from mlcrf.choices import TrackerName
from mlcrf.cli import console, options
from mlcrf.cli.mistakes import refuse_run
from mlcrf.cli.options import DATA, RUNTIME, PanelCommand, ReadingOptions, RuntimeOptions, grouped
from mlcrf.cli.progress import Progress
from mlcrf.cli.repeating import find_config, note_changes, provenance, recorded_options
from mlcrf.errors import MlcrfError

if TYPE_CHECKING:
    from mlcrf.checkpoint import Provenance
    from mlcrf.config import TrainSettings
    from mlcrf.data.hint_tables import Hints
    from mlcrf.data.manifest import Manifest
    from mlcrf.processes import Processes
    from mlcrf.training.progress import Event, Log

_SETTINGS = "Settings"
# Settings with an option of their own, by panel. TrainSettings has their names, help and bounds.
_PANELS = {
    "Model": ("backbone", "weights", "views", "structure", "albums", "pairwise", "hidden_units"),
    "Training": ("finetune", "objective", "schedule", "pos_weight", "epochs", "seed"),
    "Inference": ("inference", "max_exact_labels"),
}
_NO_TABLE = (
    "--from-review reads no table; leave out --label-set and options of tables, such as "
    "--image-root and --label-columns"
)


class TrainCommand(PanelCommand):
    """`train`, which makes options from settings when it is run or its help is shown.

    So only `mlcrf train` imports pydantic.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        config = find_config(args)
        if config is not None:
            ctx.default_map = recorded_options(config, [one.name for one in self.params])
        return super().parse_args(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        return [*self.params, *_setting_options(), *super().get_params(ctx)[len(self.params) :]]

    def invoke(self, ctx: Any) -> Any:
        ctx.meta[_SETTINGS] = {one.name: ctx.params.pop(one.name) for one in _setting_options()}
        return super().invoke(ctx)


@functools.cache
def _setting_options() -> list[Any]:
    """Make one option per setting of the panels."""
    from mlcrf.config import TrainSettings

    parameters = []
    for panel, names in _PANELS.items():
        for name in names:
            field = TrainSettings.model_fields[name]
            bounds = {type(one).__name__: one for one in field.metadata}
            default = "" if field.default in (False, None) else f"  [default: {field.default}]"
            option = typer.Option(
                None,
                *(["--album"] if name == "albums" else []),
                help=f"{field.description}{default}",
                min=getattr(bounds.get("Ge"), "ge", None),
                max=getattr(bounds.get("Le"), "le", None),
                rich_help_panel=panel,
            )
            kind: Any = field.annotation
            only = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(name, only, default=option, annotation=kind | None))

    def settings() -> None: ...

    settings.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    settings.__annotations__ = {one.name: one.annotation for one in parameters}
    app = typer.Typer(add_completion=False)
    app.command()(settings)
    return typer.main.get_command(app).params


@dataclass(frozen=True)
class DataOptions:
    """The images and labels to train on."""

    panel: ClassVar[str] = DATA

    from_review: Annotated[
        str | None,
        typer.Option(
            metavar="DB",
            help="Train on the answers in this database of `mlcrf review`; DATA is then the folder "
            "of the images, needed only if it has moved.",
        ),
    ] = None
    model: Annotated[
        Path | None,
        typer.Option(
            help="With --from-review: start from this run, and draw towards it what the answers "
            "say; `none` learns the tags from the answers alone. Nothing else is trained.",
        ),
    ] = None
    map: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File of names that mean the same label, such as `beach = seaside = strand`; or "
            "`tags.csv, strand => beach` for one table.",
        ),
    ] = None
    lists: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[TABLE=]positives",
            help="The table (if several are given, which one) lists only what is present, and "
            "leaves out a part of it; may be repeated.",
        ),
    ] = None
    hints: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]TABLE",
            help="Tags of the same images by another source, which may be wrong: how far it is to "
            "be trusted is learned, for `mlcrf predict --hints`; may be repeated.",
        ),
    ] = None
    label_set: options.LabelSet = 24
    labels: Annotated[
        Path | None,
        typer.Option(help="Text file of the expected labels, one per line."),
    ] = None
    rules: Annotated[
        Path | None,
        typer.Option(
            help="File of rules between labels, one per line, such as `dog => animal` or "
            "`exclusive: indoor, outdoor`.",
        ),
    ] = None

    def check_model(self, data: list[str], reading: ReadingOptions, *, trains: bool) -> None:
        """Refuse what does not go with --model.

        Args:
            trains: whether an option of training was given.

        Raises:
            MlcrfError: there is a table, or nothing to learn from.
        """
        if self.from_review is None:
            table = data[0] if data else "DATA"
            raise MlcrfError(
                "--model goes with --from-review; to add labels of a table to a run: "
                f"mlcrf extend {self.model} {table} --out NEW"
            )
        if trains or self.labels or self.rules:
            raise typer.BadParameter(
                "--model learns from the answers alone; leave out --labels, --rules, "
                "--resume and settings, or leave out --model to train anew"
            )
        self._check_review(data, reading)

    def _check_review(self, data: list[str], reading: ReadingOptions) -> None:
        """Refuse what does not go with --from-review."""
        given = (reading, self.label_set, self.map, self.lists, self.hints)
        if given != (ReadingOptions(), 24, None, None, None):
            raise typer.BadParameter(_NO_TABLE)
        if len(data) > 1:
            raise typer.BadParameter("--from-review takes one folder of images, not several")
        console.require_extra("review", "sqlalchemy")

    def _positives(self, data: list[str]) -> list[str]:
        """Return the tables that --lists names."""
        tables = []
        for text in self.lists or ():
            table, sign, kind = text.rpartition("=")
            if kind != "positives" or (sign and not table):
                raise typer.BadParameter(f"--lists {text}: expected [TABLE=]positives")
            if not sign and len(data) > 1:
                raise typer.BadParameter(
                    f"--lists {text}: which of the tables? Such as --lists {data[0]}=positives"
                )
            tables.append(table or data[0])
        return tables

    def read_hints(self, data: list[str], manifest: "Manifest") -> "Hints | None":
        """Read what other sources say of the images."""
        if not self.hints:
            return None
        from mlcrf.data.hint_tables import parse_hints, read_hints, require_other_table
        from mlcrf.data.read_options import ReadOptions

        how = ReadOptions(run_features=manifest.feature_names)
        tables = parse_hints(self.hints)
        require_other_table(tables, [options.parse_data(one) for one in data])
        return read_hints(tables, manifest.labels, how, tell=options.show_reading)

    def require_data(self, data: list[str]) -> None:
        """See that tables are there, and are not runs, before anything heavy is imported.

        Raises:
            MlcrfError: one is not there, or is a run.
        """
        from mlcrf.shipped_models import find_model

        for one in data:
            folder = find_model(Path(one))
            again = "DATA " if folder != Path(one) else ""  # shipped models keep no path of data
            remedy = (
                f"To train again as it was: mlcrf train {again}--config {folder}/config.json "
                "--out RUN"
            )
            refuse_run(one, "data to learn from", remedy)
            if self.from_review is None:
                options.parse_source(one)

    def load(self, data: list[str], reading: ReadingOptions) -> "Manifest":
        """Read the data set, of one or several tables."""
        from mlcrf.data.joining import read_datasets
        from mlcrf.data.rules import load_rules, with_rules
        from mlcrf.labels import load_labels

        labels = None if self.labels is None else load_labels(self.labels)
        if self.from_review is not None:
            self._check_review(data, reading)
            from mlcrf.review.review_reader import read_review

            manifest = read_review(self.from_review, list(map(Path, data)), labels=labels)
        elif data:
            places = [options.parse_source(one) for one in data]
            how = reading.make(self.label_set, labels)
            positives = self._positives(data)
            manifest = read_datasets(places, how, names=self.map, positives=positives)
        else:
            raise typer.BadParameter("missing argument DATA, or --from-review DB")
        if self.rules is None:
            return manifest
        given = manifest.rules
        rules = load_rules(self.rules, manifest.labels, given=given)
        return with_rules(manifest, rules)


@grouped
def train(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option(help="Run directory to create.")],
    source: DataOptions,
    reading: ReadingOptions,
    runtime: RuntimeOptions,
    data: Annotated[
        list[str] | None,
        typer.Argument(
            help="Table or folder of images and labels, or s3://... of a table; several, with "
            "different labels, are learned from as one.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="JSON file of settings; the config.json of a run repeats it, on the same data "
            "unless DATA is given. Options given here override it.",
            rich_help_panel=_SETTINGS,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any setting of config.json; may be repeated.",
            rich_help_panel=_SETTINGS,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a stopped run, or start it.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an old run.")] = False,
    in_memory: Annotated[
        float,
        typer.Option(
            min=0,
            help="Maximum GB of features in memory; more are mapped from files of the cache.",
            rich_help_panel=RUNTIME,
        ),
    ] = 4.0,
    log_to: Annotated[
        TrackerName | None,
        typer.Option(
            "--log",
            help="Also log losses, penalties, settings and final figures in RUN/log, for this "
            "program.",
            rich_help_panel=RUNTIME,
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log every gradient.")] = False,
    as_json: options.Json = False,
) -> None:
    """Learn labels and their couplings, and an independent baseline.

    On several processes, GPUs or machines: `torchrun --nproc-per-node N -m mlcrf train ...`.
    """
    console.quiet()
    # torch's threads would spin between its operations, where the fits compute on others; read
    # when torch is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    data = data or []
    if log_to is not None:
        _require_tracker(log_to)
    if source.model is not None:
        if log_to is not None:
            raise typer.BadParameter("--log is for training; leave it out with --model")
        trains = set_ or resume or any(one is not None for one in ctx.meta[_SETTINGS].values())
        source.check_model(data, reading, trains=bool(trains))
        made_by = provenance(ctx.command.params, ctx.params)
        switches = {"overwrite": overwrite, "as_json": as_json}
        _learn_from_answers(source, runtime, data, config, out, made_by, **switches)
        return
    if resume and overwrite:
        raise typer.BadParameter("--resume continues a run, --overwrite replaces it; leave one out")
    settings = _make_settings(config, set_, ctx.meta[_SETTINGS])
    source.require_data(data)
    from mlcrf.backbones.engines import pick_device
    from mlcrf.processes import joined, speaks
    from mlcrf.reports.card import save_card
    from mlcrf.reports.training_tables import format_training, training_record
    from mlcrf.training.extraction import Environment
    from mlcrf.training.run import train as run_training
    from mlcrf.training.tracking import tracking

    device = pick_device(runtime.device)
    manifest = source.load(data, reading)
    hints = source.read_hints(data, manifest)
    try:
        with joined(device) as (processes, own_device):
            if processes.is_first:
                options.show_reading(manifest)
                if config is not None:
                    note_changes(config, manifest)
            environment = Environment(
                own_device,
                runtime.engine,
                runtime.cache,
                in_memory=int(in_memory * 2**30),
                processes=processes,
            )
            progress = Progress("preparation", hidden=not processes.is_first)
            tracker = tracking(log_to if processes.is_first else None, progress.log)
            with progress.drawn(), tracker as track:
                report = run_training(
                    manifest,
                    out,
                    settings,
                    environment,
                    resume=resume,
                    overwrite=overwrite,
                    made_by=provenance(ctx.command.params, ctx.params),
                    hints=hints,
                    log=_log(processes, progress, track, verbose=verbose),
                    progress=lambda done, total: progress.show("features", done, total),
                )
            if processes.is_first:
                save_card(report)
            processes.barrier()
    except (KeyboardInterrupt, SystemExit):
        if speaks():
            console.log(_stopped(out))
        raise
    if processes.is_first:
        options.show_notes(report.notes, manifest)
        typer.echo(training_record(report) if as_json else format_training(report))


def _stopped(out: Path) -> str:
    """Return what is kept of a run that was stopped, and how to continue."""
    if not out.is_dir():
        return "stopped; nothing is kept: run the same command again"
    return (
        f"stopped; finished fits and epochs are kept in {out}: run the same command with --resume "
        "to continue"
    )


def _make_settings(
    config: Path | None, texts: list[str] | None, given: dict[str, Any]
) -> "TrainSettings":
    """Merge settings; refuse --epochs where nothing is trained by epochs."""
    from mlcrf.config import make_settings

    settings = make_settings(config, tuple(texts or ()), **given)
    has_epochs = settings.trains_network or settings.dropout
    if given["epochs"] is not None and not has_epochs:
        raise typer.BadParameter(
            "--epochs is for --finetune last or all, or for a head with dropout (--set "
            "hidden_units=512 --set dropout=0.6); leave it out"
        )
    return settings


def _learn_from_answers(
    source: DataOptions,
    runtime: RuntimeOptions,
    data: list[str],
    config: Path | None,
    out: Path,
    made_by: "Provenance",
    *,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Learn from the answers of a review, starting from a run, and write a new one."""
    from mlcrf.reports.card import save_card
    from mlcrf.reports.training_tables import format_teaching, teaching_record
    from mlcrf.review.review_reader import read_archive
    from mlcrf.training.additions import teach
    from mlcrf.training.taught_saving import require_free, save_taught

    assert source.model is not None and source.from_review is not None
    run, base = options.load_base(source.model)
    require_free(out, overwrite=overwrite)
    manifest = read_archive(source.from_review, base, list(map(Path, data)))
    options.show_reading(manifest)
    if config is not None:
        note_changes(config, manifest)
    with console.bar("features", then="fits of labels") as progress:
        report = teach(
            base,
            manifest,
            runtime.make_extractor(run),
            skip_unreadable=True,
            made_by=made_by,
            progress=progress,
            fitted=progress.show_next,
        )
    report = save_taught(report, out, overwrite=overwrite)
    save_card(report)
    options.show_notes(report.notes, manifest)
    typer.echo(teaching_record(report) if as_json else format_teaching(report))


def _require_tracker(name: TrackerName) -> None:
    """Refuse a tracker whose package is not installed."""
    if find_spec(name.value) is None:
        raise MlcrfError(f"--log {name} needs a package that is missing: pip install {name}")


def _log(processes: "Processes", progress: Progress, track: "Log", *, verbose: bool) -> "Log":
    """Return the log of this process; of several processes, only the first writes.

    Args:
        track: is given all events.
    """
    from mlcrf.training.progress import FitFinished, FitProgress, Line, TaskProgress, TaskStarted
    from mlcrf.training.time_to_go import FitsPlanned, TimeToGo

    to_go: TimeToGo | None = None

    def log(event: "Event") -> None:
        nonlocal to_go
        track(event)
        match event:
            case FitsPlanned():
                to_go = TimeToGo(event)
            case TaskProgress():
                progress.show(event.task, event.share, 1)
            case TaskStarted():
                progress.show(event.task, 0, 0, whole=None if event.is_last else to_go)
            case FitProgress():
                if to_go is not None:
                    to_go.at_work(event.fit, event.share)
                progress.show(event.fit, event.share, 1, whole=to_go)
            case FitFinished():
                if to_go is not None:
                    to_go.ended()
        if isinstance(event, Line) or (verbose and isinstance(event, FitProgress)):
            progress.log(str(event))

    return log if processes.is_first else lambda event: None
