"""Predictions as the JSON that other programs import, written as they come."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_never
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from mlcrf.choices import Program
from mlcrf.errors import DataError, SettingsError
from mlcrf.images import Image
from mlcrf.labels import LabelSpace
from mlcrf.prediction.formats.table import OutputFormat, Table
from mlcrf.prediction.record import Prediction
from mlcrf.prediction.writing import OutputForm
from mlcrf.version import __version__

LOCAL_FILES = "/data/local-files/?d="  # what Label Studio serves from its own disk


@dataclass(frozen=True)
class LabelStudio:
    """Tasks with one prediction each, for Label Studio to show and a person to correct.

    The labels that were decided present are one result of type `choices`. Its `score`, by which
    Label Studio can sort tasks, is the mean probability that a label was decided rightly. What the
    project has to be set up with, an `Image` and `Choices`, goes to `NAME.config.xml`.

    Attributes:
        model_version: shown beside each prediction.
        image_url: what every address begins with.
        url_root: the folder whose files have addresses; the rest of their path follows.

    Source: https://labelstud.io/guide/predictions, Import pre-annotated data.
    """

    model_version: str
    image_url: str = LOCAL_FILES
    url_root: Path = Path("/")
    endings: tuple[str, ...] = (".json",)
    holds_errors: bool = field(default=False, init=False)

    def open(self, path: Path, ending: str, labels: LabelSpace) -> "_JsonItems":
        """Begin the file."""

        def task(prediction: Prediction, number: int) -> str:
            present = frozenset(prediction.labels)
            right = [
                p if name in present else 1 - p
                for name, p in zip(labels, prediction.marginals, strict=True)
            ]
            result = {
                "id": f"labels-{number}",
                "type": "choices",
                "from_name": "labels",
                "to_name": "image",
                "value": {"choices": list(prediction.labels)},
            }
            said = {
                "model_version": self.model_version,
                "score": _rounded(sum(right) / len(right)),
                "result": [result],
            }
            address = {"image": self._address(prediction.image)}
            return json.dumps({"data": address, "predictions": [said]})

        return _JsonItems(path, "[", task, "]")

    def companions(self, labels: LabelSpace) -> dict[str, str]:
        """The labelling interface of the project."""
        choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in labels)
        config = (
            '<View>\n  <Image name="image" value="$image"/>\n'
            f'  <Choices name="labels" toName="image" choice="multiple">\n{choices}\n'
            "  </Choices>\n</View>\n"
        )
        return {"config.xml": config}

    def _address(self, image: Image) -> str:
        if image.is_remote:  # which Label Studio reads from its storage by itself
            return image.address
        try:
            inside = Path(image.address).relative_to(os.path.abspath(self.url_root))  # noqa: PTH100
        except ValueError:
            raise DataError(
                f"{image}: is not in --url-root {self.url_root}, so that it has no address"
            ) from None
        return self.image_url + quote(os.fsencode(inside))


@dataclass(frozen=True)
class FiftyOne:
    """A `FiftyOneImageClassificationDataset` of several labels a photo, by absolute path or URL.

        {"classes": [NAME, ...], "labels": {PATH: [{"label": index in classes,
         "confidence": p, "attributes": {"independent": p of the baseline}}, ...], ...}}

    The labels that were decided present, none or several. `fiftyone.Dataset.from_dir` reads it by
    `dataset_type=fiftyone.types.FiftyOneImageClassificationDataset` and `labels_path=FILE`.

    Source: https://docs.voxel51.com/user_guide/import_datasets.html, section of that name.
    """

    endings: tuple[str, ...] = (".json",)
    holds_errors: bool = field(default=False, init=False)

    def open(self, path: Path, ending: str, labels: LabelSpace) -> "_JsonItems":
        """Begin the file."""
        at = {name: place for place, name in enumerate(labels)}

        def item(prediction: Prediction, number: int) -> str:
            chosen = [
                {
                    "label": at[name],
                    "confidence": _rounded(prediction.marginals[at[name]]),
                    "attributes": {"independent": _rounded(prediction.independent[at[name]])},
                }
                for name in prediction.labels
            ]
            return f"{json.dumps(prediction.image.address)}: {json.dumps(chosen)}"

        return _JsonItems(
            path, f'{{"classes": {json.dumps(list(labels))}, "labels": {{', item, "}}"
        )

    def companions(self, labels: LabelSpace) -> dict[str, str]:
        """Nothing."""
        return {}


def choose_form(
    program: Program | None,
    *,
    tidy: bool = False,
    excel_safe: bool = False,
    digest: str = "",
    image_url: str | None = None,
    url_root: Path | None = None,
) -> OutputForm:
    """What is written: a table, or what a program imports.

    Args:
        digest: of the model, whose first digits go into Label Studio's `model_version`.

    Raises:
        SettingsError: two of the choices exclude each other.
    """
    if program is not None and tidy:
        raise SettingsError(f"--tidy is for tables; leave it out with --for {program.value}")
    if program is not None and excel_safe:
        raise SettingsError(f"--excel-safe is for tables; leave it out with --for {program.value}")
    addresses = image_url is not None or url_root is not None
    if addresses and program is not Program.LABEL_STUDIO:
        raise SettingsError("--image-url and --url-root go with --for label-studio only")
    match program:
        case None:
            endings = (OutputFormat.CSV,) if excel_safe else tuple(OutputFormat)
            return Table(tidy, excel_safe, endings)
        case Program.LABEL_STUDIO:
            return LabelStudio(
                f"mlcrf {__version__}, model {digest[:12]}",
                LOCAL_FILES if image_url is None else image_url,
                Path("/") if url_root is None else url_root,
            )
        case Program.FIFTYONE:
            return FiftyOne()
        case _:
            assert_never(program)


class _JsonItems:
    """One JSON value that is written an item at a time, a line each."""

    def __init__(
        self, path: Path, begin: str, item: Callable[[Prediction, int], str], end: str
    ) -> None:
        self._stream = path.open("w", encoding="ascii", newline="\n")
        self._item, self._end, self._written = item, end, 0
        self._stream.write(begin)

    def write(self, prediction: Prediction) -> None:
        """Add a photo."""
        text = self._item(prediction, self._written)
        self._stream.write((",\n" if self._written else "\n") + text)
        self._written += 1

    def close(self) -> None:
        """End the value; also after an error, when the file is thrown away."""
        self._stream.write(f"\n{self._end}\n")
        self._stream.close()


def _rounded(probability: float) -> float:
    return float(f"{probability:.6g}")
