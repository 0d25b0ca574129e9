"""Options of images to tag."""

from typing import Annotated

import typer

from mlcrf.choices import RawPairs

Images = Annotated[
    list[str],
    typer.Argument(
        help="Folders and image files, tar and Parquet files of images, s3://, gs:// or file:// "
        "URLs; `-` reads names from standard input.",
        show_default=False,
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Stop after this many images.")]
RawPairsOption = Annotated[
    RawPairs,
    typer.Option(
        "--raw-pairs",
        help="Of a RAW file in a folder and the JPEG or HEIC of the same name beside it, tag only "
        "the latter, or both.",
    ),
]
Null = Annotated[
    bool,
    typer.Option(
        "--null",
        "-0",
        help="Names on standard input end with a NUL byte, as those of find -print0.",
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Exit with status 1 if any image could not be tagged.")
]
