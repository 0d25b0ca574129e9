"""`mlcrf review`: serve a page on which people confirm tags."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mlcrf.cli import console, options
from mlcrf.cli.mistakes import refuse_run, require_images
from mlcrf.cli.options import PromiseOptions, RuntimeOptions, grouped
from mlcrf.cli.options.grouping import DECISION
from mlcrf.hints import counted
from mlcrf.shipped_models import DEFAULT

_MOST_NOTES = 10


@grouped
def review(
    folder: Annotated[Path, typer.Argument(help="Folder of photos; subfolders are included.")],
    promise: PromiseOptions,
    runtime: RuntimeOptions,
    model: options.Model = Path(DEFAULT),
    db: Annotated[
        str,
        typer.Option(
            help="Database of the answers: sqlite:///FILE, or postgresql://USER@HOST/DATABASE "
            "for several people at once."
        ),
    ] = "sqlite:///tags.db",
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="TAGS",
            help='Tags of your own to add to the page, separated by semicolons: "beach; Oma". More '
            "can be added there.",
        ),
    ] = None,
    costs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write tags without an answer where that is expected to cost less than to leave "
            "them out: a CSV file `label,false,missed`, as for `mlcrf predict`.",
            rich_help_panel=DECISION,
        ),
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option(
            metavar="TABLE",
            help="Likely label errors, as `mlcrf audit --out TABLE` wrote them: the page asks "
            "about these first, in their order.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run directory of the model that is saved on the page (default: runs/NAME, with "
            "the name typed there)."
        ),
    ] = None,
    person: Annotated[
        str | None, typer.Option(help="Name of the person who answers (default: your login name).")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; by default only this machine can connect.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port to listen on; 0 picks a free port (default: that of the last start with "
            "this database).",
        ),
    ] = None,
    browser: Annotated[
        bool, typer.Option(help="Open the page in a browser, if there is a screen.")
    ] = True,
) -> None:
    """Confirm tags on a web page; each answer updates the photo's other tags. Ctrl-C ends it.

    `--model none` starts without labels, for tags of your own. With --precision or --recall, what
    the page writes of tags without an answer, and calls sure, is what calibration images support;
    with --costs it writes those that cost least.
    """
    _check(promise, costs, model)
    console.quiet()
    console.require_extra("review", "starlette", "uvicorn", "jinja2", "sqlalchemy")
    from mlcrf.review.photos import require_folder

    refuse_run(folder, "a folder of photos", f"Name it so: mlcrf review FOLDER --model {folder}")
    require_folder(folder)
    from mlcrf.checkpoint import guarantee_notes
    from mlcrf.decoding import load_costs
    from mlcrf.review.database import ReviewDatabase
    from mlcrf.review.launch import (
        add_suspects,
        add_tags,
        open_browser,
        serve,
        start_review,
    )
    from mlcrf.review.model_saving import ModelSaving
    from mlcrf.review.suspects import read_suspects
    from mlcrf.training.taught_saving import require_free
    from mlcrf.web import is_loopback

    if out is not None:
        require_free(out, overwrite=True)
    suspects = None if audit is None else read_suspects(audit)
    run, base = options.load_base(model)
    require_images(run, "review")
    decoder = options.make_promise(run, promise)
    known_costs = None if costs is None else load_costs(costs, run.labels)
    extractor = runtime.make_extractor(run)
    who = person or console.login_name()
    database = ReviewDatabase(db)
    try:
        with console.bar("photos") as progress:
            session, notes = start_review(
                folder,
                base,
                database,
                extractor,
                decoder=decoder,
                costs=known_costs,
                progress=progress,
            )
        add_tags(session, (labels or "").split(";"), who)
        if suspects is not None:
            notes = add_suspects(session, suspects, who) + notes
        _show_notes(notes)
        if not is_loopback(host):
            console.note("anyone who has the address of this page can answer")

        def announce(address: str) -> None:
            asked = f"{len(session.suspects)} likely label errors, " if session.suspects else ""
            typer.echo(
                f"{counted(len(session.photos), 'photo')}, {asked}answers in {database.name}"
            )
            if decoder is not None:
                for line in guarantee_notes(run, decoder):
                    typer.echo(line)
                tags, photos = session.promised_counts()
                typer.echo(
                    f"tags without an answer that are promised: {tags}, on "
                    f"{counted(photos, 'photo')}"
                )
            typer.echo(address)
            if browser:
                open_browser(address)

        serve(
            session,
            ModelSaving(session, base, run.backbone_spec, out),
            host=host,
            port=port,
            person=who,
            private=runtime.cache,
            announce=announce,
        )
        console.log(f"answers are in {database.name}")
    finally:
        database.close()


def _check(promise: PromiseOptions, costs: Path | None, model: Path) -> None:
    """Refuse options that say nothing without a model, or contradict each other."""
    is_none = str(model) == "none"
    if promise.promises and is_none:
        raise typer.BadParameter(
            "--precision and --recall are promised by a calibrated model; with --model none there "
            "is none"
        )
    if costs is not None and is_none:
        raise typer.BadParameter(
            "--costs decides by the probabilities of a model; with --model none there is none"
        )
    if costs is not None and promise.promises:
        raise typer.BadParameter(
            "--costs decides otherwise than --precision and --recall; give one"
        )


def _show_notes(notes: Sequence[str]) -> None:
    """Print the first notes on standard error, and the number of the others."""
    for note in notes[:_MOST_NOTES]:
        console.note(note)
    if len(notes) > _MOST_NOTES:
        console.note(f"and {len(notes) - _MOST_NOTES} more")
