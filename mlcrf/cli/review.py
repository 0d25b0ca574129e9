"""`mlcrf review`: a page on which people confirm tags."""

from pathlib import Path
from typing import Annotated

import typer

from mlcrf.choices import EngineName
from mlcrf.cli import console
from mlcrf.pretrained import DEFAULT


def review(
    folder: Annotated[Path, typer.Argument(help="Folder of photos, with its subfolders.")],
    model: Annotated[
        Path, typer.Option(help="Run directory, or a name that `mlcrf models` lists.")
    ] = Path(DEFAULT),
    db: Annotated[
        str,
        typer.Option(
            help="Database for the answers: sqlite:///FILE, or postgresql://USER@HOST/DATABASE "
            "for several people at once."
        ),
    ] = "sqlite:///tags.db",
    person: Annotated[
        str | None, typer.Option(help="Name of the person who answers; your login name by default.")
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; the default can be reached from this machine only."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 0,
    browser: Annotated[
        bool, typer.Option(help="Open the page, if there is a screen and a terminal.")
    ] = True,
    device: console.Device = "auto",
    engine: console.Engine = EngineName.AUTO,
    cache_dir: console.CacheDir = None,
) -> None:
    """Confirm tags on a page: each answer updates the photo's other tags; Ctrl-C ends it."""
    console.quiet()
    console.require_extra("review", "starlette", "uvicorn", "jinja2", "sqlalchemy")
    from mlcrf.backbones.engines import pick_device
    from mlcrf.backbones.features import FeatureExtractor
    from mlcrf.checkpoint import load_run
    from mlcrf.review.database import ReviewDatabase
    from mlcrf.review.launch import open_browser, serve, start_review
    from mlcrf.review.scan import require_folder
    from mlcrf.web.http_server import is_loopback

    require_folder(folder)
    run = load_run(model)
    extractor = FeatureExtractor(
        run.make_backbone(),
        engine=engine,
        device=pick_device(device),
        cache_dir=console.cache_dir(cache_dir),
    )
    database = ReviewDatabase(db)
    try:
        with console.bar("photos") as progress:
            session, notes = start_review(folder, run, database, extractor, progress=progress)
        for note in notes[:10]:
            console.note(note)
        if len(notes) > 10:
            console.note(f"and {len(notes) - 10} more")
        if not is_loopback(host):
            console.note("others can reach this page; anyone who has its address can answer")

        def announce(address: str) -> None:
            typer.echo(f"{len(session.photos)} photos, answers in {database.name}\n{address}")
            if browser:
                open_browser(address)

        serve(
            session,
            host=host,
            port=port,
            person=person or console.login_name(),
            announce=announce,
        )
        console.log(f"answers are in {database.name}")
    finally:
        database.close()
