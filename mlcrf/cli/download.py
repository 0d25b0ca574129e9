"""`mlcrf download`: download a known data set, or generate the synthetic one."""

from pathlib import Path
from typing import Annotated

import typer

from mlcrf.hints import counted

SYNTHETIC = "synthetic"


def download(
    name: Annotated[
        str, typer.Argument(help="mirflickr25k, voc2007, voc2012, coco2017 or synthetic.")
    ],
    dest: Annotated[Path, typer.Option(help="Folder to put the data in.")],
    mirror: Annotated[
        str | None, typer.Option(help="Folder or URL with the same archives.")
    ] = None,
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Keep archives after unpacking.")
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Random seed of the synthetic data set.")
    ] = 0,
) -> None:
    """Download, verify and unpack a known data set, unless that is done."""
    if name == SYNTHETIC:
        if mirror is not None or keep_archives:
            option = "--keep-archives" if mirror is None else "--mirror"
            raise typer.BadParameter(f"{option}: these images are drawn, not fetched; leave it out")
        from mlcrf.synthetic.dataset import TRUTH, make_dataset

        is_again = (dest / TRUTH).exists()
        make_dataset(dest, seed=seed)
        typer.echo(f"{name}: {dest}{', in the place of an earlier one' if is_again else ''}")
        return
    if seed:
        raise typer.BadParameter(f"--seed {seed}: it is for synthetic alone; leave it out")
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from mlcrf.data.download.catalog import find_entry
    from mlcrf.data.download.dataset_download import download as fetch

    entry = find_entry(name)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=total)

        report = fetch(entry, dest, mirror=mirror, progress=show, keep_archives=keep_archives)
    for note in (*report.notes, f"{entry.licence} ({entry.home})"):
        typer.echo(f"note: {note}", err=True)
    state = "already in" if report.already_there else "now in"
    typer.echo(
        f"{name}: "
        f"{counted(report.files, 'file')}, {report.bytes / 1e6:.1f} MB, {state} {report.dest}"
    )
