"""JSON files for Label Studio."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from mlcrf.errors import DataError
from mlcrf.images import Image
from mlcrf.labels import LabelSpace
from mlcrf.prediction.formats.json_items import JsonItems, rounded
from mlcrf.prediction.record import Prediction

LOCAL_FILES = "/data/local-files/?d="  # prefix of files on Label Studio's own disk


@dataclass(frozen=True)
class LabelStudio:
    """Tasks with one prediction each, which a person corrects in Label Studio.

    The labels decided present are one result of type `choices`. Its `score`, by which Label Studio
    can sort tasks, is the mean probability that the decision on a label is correct; one that is
    left open counts as one half. The labelling
    interface of the project, an `Image` and `Choices`, is written to `NAME.config.xml`.

    Attributes:
        model_version: shown next to each prediction.
        image_url: URL prefix of images.
        url_root: the folder that `image_url` points to; the path below it is appended.

    Source: https://labelstud.io/guide/predictions, Import pre-annotated data.
    """

    model_version: str
    image_url: str = LOCAL_FILES
    url_root: Path = Path("/")
    suffixes: tuple[str, ...] = (".json",)
    holds_errors: bool = field(default=False, init=False)

    def open(self, path: Path, suffix: str, labels: LabelSpace) -> JsonItems:
        def task(prediction: Prediction, number: int) -> str:
            present, is_open = frozenset(prediction.labels), frozenset(prediction.abstained)
            right = [
                0.5 if name in is_open else p if name in present else 1 - p
                for name, p in zip(labels, prediction.marginals, strict=True)
            ]
            result = {
                "id": f"labels-{number}",
                "type": "choices",
                "from_name": "labels",
                "to_name": "image",
                "value": {"choices": list(prediction.labels)},
            }
            suggestion = {
                "model_version": self.model_version,
                "score": rounded(sum(right) / len(right)),
                "result": [result],
            }
            address = {"image": self._address(prediction.image)}
            return json.dumps({"data": address, "predictions": [suggestion]})

        return JsonItems(path, "[", task, "]")

    def companions(self, labels: LabelSpace) -> dict[str, str]:
        choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in labels)
        config = (
            '<View>\n  <Image name="image" value="$image"/>\n'
            f'  <Choices name="labels" toName="image" choice="multiple">\n{choices}\n'
            "  </Choices>\n</View>\n"
        )
        return {"config.xml": config}

    def _address(self, image: Image) -> str:
        if image.is_remote:  # Label Studio reads it from the store
            return image.address
        try:
            inside = Path(image.address).relative_to(os.path.abspath(self.url_root))  # noqa: PTH100
        except ValueError:
            raise DataError(
                f"{image}: is not in --url-root {self.url_root}, so it has no URL"
            ) from None
        return self.image_url + quote(os.fsencode(inside))
