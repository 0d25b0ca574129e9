"""Retired options and commands: print the new command, then exit."""

from typing import Annotated, Any

import typer

from mlcrf.cli.options import PanelCommand

_TAG = ("--xmp", "--txt", "--dry-run", "--undo")
_CONVERT = (
    *("--tidy", "--excel-safe", "--for", "--image-url", "--url-root"),
    *("--only", "--never", "--min-prob"),
)


class PredictCommand(PanelCommand):
    """`predict`, which refuses its retired options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for word in args[: args.index("--")] if "--" in args else args:
            option = word.partition("=")[0]
            if option in _TAG:
                _refuse(ctx, f"predict {option} was moved: use `mlcrf tag IMAGES {option}`")
            if option in _CONVERT:
                _refuse(
                    ctx,
                    f"predict {option} was moved: use `mlcrf convert TABLE --out FILE {option}` "
                    "with the table that predict writes",
                )
        return super().parse_args(ctx, args)


def merge(
    context: typer.Context, words: Annotated[list[str] | None, typer.Argument(hidden=True)] = None
) -> None:
    """Refuse the retired command, and print the new one."""
    _refuse(context, "`mlcrf merge` was replaced by `mlcrf convert FOLDER --out FILE`")


def _refuse(context: Any, message: str) -> None:
    typer.echo(f"error: {message}", err=True)
    context.exit(2)
