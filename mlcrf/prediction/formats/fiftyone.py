"""JSON files for FiftyOne."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from mlcrf.labels import LabelSpace
from mlcrf.prediction.formats.json_items import JsonItems, rounded
from mlcrf.prediction.record import Prediction


@dataclass(frozen=True)
class FiftyOne:
    """A `FiftyOneImageClassificationDataset` of several labels per image, by absolute path or URL.

        {"classes": [NAME, ...], "labels": {PATH: [{"label": index in classes,
         "confidence": p, "attributes": {"independent": p of the baseline}}, ...], ...}}

    Only labels decided present are listed; what is left open cannot be said. To load it, call
    `fiftyone.Dataset.from_dir` with
    `dataset_type=fiftyone.types.FiftyOneImageClassificationDataset` and `labels_path=FILE`.

    Source: https://docs.voxel51.com/user_guide/import_datasets.html, section of that name.
    """

    suffixes: tuple[str, ...] = (".json",)
    holds_errors: bool = field(default=False, init=False)

    def open(self, path: Path, suffix: str, labels: LabelSpace) -> JsonItems:
        at = {name: place for place, name in enumerate(labels)}

        def item(prediction: Prediction, number: int) -> str:
            name = prediction.image.address
            chosen = [
                {
                    "label": at[label],
                    "confidence": rounded(prediction.marginals[at[label]]),
                    "attributes": {"independent": rounded(prediction.independent[at[label]])},
                }
                for label in prediction.labels
            ]
            return f"{json.dumps(name)}: {json.dumps(chosen)}"

        begin = f'{{"classes": {json.dumps(list(labels))}, "labels": {{'
        return JsonItems(path, begin, item, "}}")

    def companions(self, labels: LabelSpace) -> dict[str, str]:
        return {}
