"""`mlcrf serve`: the tagger as an HTTP service."""

from pathlib import Path
from typing import Annotated

import typer

from mlcrf.choices import Decision, EngineName
from mlcrf.cli import console
from mlcrf.pretrained import DEFAULT


def serve(
    model: Annotated[
        Path, typer.Argument(help="Run directory, or a name that `mlcrf models` lists.")
    ] = Path(DEFAULT),
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; the default can be reached from this machine only."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    decode: console.Decode = Decision.THRESHOLD,
    threshold: console.Threshold = None,
    top_k: console.TopK = None,
    at_least: console.AtLeast = 0,
    at_most: console.AtMost = None,
    pictures: Annotated[
        int, typer.Option(min=1, help="Maximum number of images per request.")
    ] = 64,
    megabytes: Annotated[int, typer.Option(min=1, help="Maximum size of a request.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Maximum number of images per batch.")] = 64,
    waiting: Annotated[
        int, typer.Option(min=1, help="Maximum number of waiting images; more are refused (503).")
    ] = 256,
    megabytes_together: Annotated[
        int, typer.Option(min=1, help="Maximum size of all open requests together.")
    ] = 512,
    device: console.Device = "auto",
    engine: console.Engine = EngineName.AUTO,
    cache_dir: console.CacheDir = None,
) -> None:
    """Tag images sent by HTTP (POST /tags); Ctrl-C ends it."""
    console.quiet()
    console.require_extra("serve", "fastapi", "prometheus_client", "uvicorn")
    from mlcrf.backbones.engines import pick_device
    from mlcrf.checkpoint import load_run
    from mlcrf.decoding import Decoder
    from mlcrf.prediction import Tagger
    from mlcrf.serving.monitoring import Limits
    from mlcrf.serving.tagging_app import make_app, warm_up
    from mlcrf.web.http_server import is_loopback
    from mlcrf.web.http_server import serve as serve_app

    limits = Limits(pictures, megabytes, batch, waiting, megabytes_together)
    run = load_run(model)
    tagger = Tagger(
        run,
        engine=engine,
        device=pick_device(device),
        decoder=Decoder(decode, threshold, top_k, at_least, at_most),
        cache_dir=console.cache_dir(cache_dir),
    )
    warm_up(tagger)
    app = make_app(run, tagger, limits)
    if not is_loopback(host):
        console.note("anyone who can reach this address can have images tagged")
    serve_app(app, host=host, port=port, announce=typer.echo)
