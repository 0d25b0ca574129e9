"""`mlcrf serve`: serve the tagger over HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from mlcrf.choices import Api
from mlcrf.cli import console, options, tagging
from mlcrf.cli.mistakes import require_images
from mlcrf.cli.options import CoverageOptions, DecisionOptions, RuntimeOptions, grouped
from mlcrf.errors import SettingsError
from mlcrf.shipped_models import DEFAULT

_LIMITS = "Limits"


@grouped
def serve(
    decision: DecisionOptions,
    families: CoverageOptions,
    runtime: RuntimeOptions,
    model: options.RunDirectory = Path(DEFAULT),
    host: Annotated[
        str, typer.Option(help="Address to listen on; by default only this machine can connect.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free port.")
    ] = 8000,
    api: Annotated[
        Api,
        typer.Option(
            "--as",
            help="Interface: mlcrf's own, an ML backend of Label Studio, or PhotoPrism's external "
            "vision service.",
        ),
    ] = Api.MLCRF,
    image_root: Annotated[
        Path | None,
        typer.Option(
            help="Folder of Label Studio's files, the only ones that --as label-studio reads.",
        ),
    ] = None,
    images: Annotated[
        int,
        typer.Option(min=1, help="Maximum number of images per request.", rich_help_panel=_LIMITS),
    ] = 64,
    megabytes: Annotated[
        int,
        typer.Option(
            min=1, help="Maximum size of a request in megabytes.", rich_help_panel=_LIMITS
        ),
    ] = 64,
    batch: Annotated[
        int,
        typer.Option(min=1, help="Maximum number of images per batch.", rich_help_panel=_LIMITS),
    ] = 64,
    waiting: Annotated[
        int,
        typer.Option(
            min=1,
            help="Maximum number of waiting images; further ones are rejected with status 503.",
            rich_help_panel=_LIMITS,
        ),
    ] = 256,
    megabytes_together: Annotated[
        int,
        typer.Option(
            min=1,
            help="Maximum size of all open requests together in megabytes.",
            rich_help_panel=_LIMITS,
        ),
    ] = 512,
) -> None:
    """Tag images sent by HTTP (POST /tags). Ctrl-C stops the service."""
    if image_root is not None:
        if api is not Api.LABEL_STUDIO:
            raise SettingsError("--image-root needs --as label-studio")
        if not image_root.is_dir():
            raise SettingsError(f"--image-root {image_root}: there is no such folder")
    if families.coverage is not None and api is not Api.MLCRF:
        raise SettingsError(f"--coverage is for mlcrf's own interface, not for --as {api.value}")
    console.quiet()
    console.require_extra("serve", "fastapi", "prometheus_client", "uvicorn")
    from mlcrf.prediction import PredictJob
    from mlcrf.serving.monitoring import Limits
    from mlcrf.serving.tagging_app import make_app, warm_up
    from mlcrf.web import is_loopback
    from mlcrf.web import serve as serve_app

    limits = Limits(images, megabytes, batch, waiting, megabytes_together)
    run = options.load_run(model)
    require_images(run, "serve")
    coverage = options.make_coverage(run, families)
    job = PredictJob(run.digest, options.make_decoder(run, decision), coverage=coverage)
    asks = api is Api.LABEL_STUDIO
    tagger = tagging.make_tagger(run, job, runtime, information=asks)
    warm_up(tagger)
    app = make_app(run, tagger, limits, api, image_root)
    if not is_loopback(host):
        console.note("anyone who can reach this address can have images tagged")
    serve_app(app, host=host, port=port, announce=typer.echo)
