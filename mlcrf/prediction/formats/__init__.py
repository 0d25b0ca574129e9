"""Formats of predictions, one per file: tables, parts of a table, and files for other programs.

The interface is `output.OutputFormat`. To add a format: a file here, a name in
`mlcrf.choices.Program`, a case in `choose_format`.
"""

from pathlib import Path
from typing import assert_never

from mlcrf.choices import Program
from mlcrf.errors import SettingsError
from mlcrf.prediction.formats.fiftyone import FiftyOne
from mlcrf.prediction.formats.label_studio import LOCAL_FILES, LabelStudio
from mlcrf.prediction.formats.output import OutputFormat
from mlcrf.prediction.formats.table import Table, TableSuffix
from mlcrf.prediction.record import Origin
from mlcrf.version import __version__

__all__ = ["OutputFormat", "Table", "choose_format"]


def choose_format(
    program: Program | None,
    *,
    tidy: bool = False,
    excel_safe: bool = False,
    origin: Origin = Origin(),
    image_url: str | None = None,
    url_root: Path | None = None,
    abstains: bool = False,
    families: bool = False,
) -> OutputFormat:
    """Make the format that options ask for.

    Args:
        abstains: whether labels may be left open.
        families: whether predictions have families of label sets.
        origin: the model; the first digits of its SHA-256 go into Label Studio's `model_version`.

    Raises:
        SettingsError: two options exclude each other.
    """
    if program is not None and tidy:
        raise SettingsError(f"--tidy is for tables; leave it out with --for {program.value}")
    if program is not None and excel_safe:
        raise SettingsError(f"--excel-safe is for tables; leave it out with --for {program.value}")
    addresses = image_url is not None or url_root is not None
    if addresses and program is not Program.LABEL_STUDIO:
        raise SettingsError("--image-url and --url-root need --for label-studio")
    match program:
        case None:
            suffixes = (TableSuffix.CSV,) if excel_safe else tuple(TableSuffix)
            return Table(tidy, excel_safe, origin, suffixes, abstains, families)
        case Program.LABEL_STUDIO:
            model = f", model {origin.digest[:12]}" if origin.digest else ""
            return LabelStudio(
                f"mlcrf {__version__}{model}",
                LOCAL_FILES if image_url is None else image_url,
                Path("/") if url_root is None else url_root,
            )
        case Program.FIFTYONE:
            return FiftyOne()
        case _:
            assert_never(program)
