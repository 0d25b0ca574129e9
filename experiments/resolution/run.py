"""Does it matter how large, how shaped and how sharp photos are? The shipped recipe on others.

    python -m experiments.resolution.run [--quick]

Heads learn from photos of 128 px; users have others. Test photos are made larger (8 times, saved as
JPEG), put between black bars, and stretched, and scored again. And since sharper photos than 128 px
are not to be had here, one step down: heads that learn from photos shrunk to 64 px meet photos of
128 px, as they are and shrunk to what they learned from.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from experiments import frame
from experiments.frame import Rows, percent
from mlcrf.checkpoint import Run
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest, Split
from mlcrf.images import as_image
from mlcrf.metrics import Predictions, gather_statistics

SHOWN = 2000
RESAMPLING = Image.Resampling.BICUBIC


def _letterbox(image: Image.Image) -> Image.Image:
    wide = Image.new("RGB", (image.width * 16 // 9, image.height))
    wide.paste(image, ((wide.width - image.width) // 2, 0))
    return wide


VARIANTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "1,024 px": lambda image: image.resize((1024, 1024), RESAMPLING),
    "black bars, 16:9": _letterbox,
    "stretched to 3:2": lambda image: image.resize((192, 128), RESAMPLING),
    "stretched to 3:1": lambda image: image.resize((384, 128), RESAMPLING),
    "greyscale": lambda image: image.convert("L"),
}


def altered(data: Manifest, folder: Path, change: Callable[[Image.Image], Image.Image]) -> Manifest:
    """The same photos, each changed and saved as JPEG."""
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for image in data.images:
        path = folder / image.file_name
        if not path.exists():
            with Image.open(image.name) as photo:
                change(photo.convert("RGB")).save(path, quality=95)
        images.append(as_image(path))
    return replace(data, images=tuple(images))


def main() -> None:
    """Change, infer, score, and keep the figures."""
    arguments = frame.read_options(__doc__, "resolution")
    data = frame.photos(arguments)
    home = arguments.runs / "resolution"
    run = frame.default_run(arguments, data)
    test = data.part(Split.TEST)
    few = test.rows(np.arange(min(SHOWN, len(test))))
    rows: Rows = []
    usual = _marginals(run, few)
    rows.append({"learned_from": "128 px", "photos": "128 px"} | _scores(usual, few))
    for name, change in VARIANTS.items():
        folder = home / name.replace(" ", "-").replace(",", "").replace(":", "-")
        found = _marginals(run, altered(few, folder, change))
        moved = float((found - usual).abs().mean())
        rows.append({"learned_from": "128 px", "photos": name, "moved": moved})
        rows[-1] |= _scores(found, few)
        frame.keep(arguments, rows)
    small = altered(data, home / "64px", lambda image: image.resize((64, 64), RESAMPLING))
    more = frame.QUICK if arguments.quick else {}
    shrunk = frame.trained(small, home / "run-64px", TrainSettings(**more))
    small_test = small.part(Split.TEST)
    for name, model, photos in (
        ("64 px", shrunk, small_test),
        ("128 px", shrunk, test),
        ("128 px", run, test),
        ("64 px", run, small_test),
    ):
        learned = "64 px" if model is shrunk else "128 px"
        row = {"learned_from": learned, "photos": f"{name}, all test photos"}
        rows.append(row | _scores(_marginals(model, photos), photos))
        frame.keep(arguments, rows)
    print(tables({"rows": rows})["photos"])


@torch.no_grad()
def _marginals(run: Run, data: Manifest) -> Tensor:
    features = frame.features_of(run, data)
    return run.make_inference()(run.crf(features)).marginals


def _scores(marginals: Tensor, data: Manifest) -> dict[str, float]:
    states = (marginals > 0.5).long().numpy()
    nothing = np.zeros(len(data))
    predicted = Predictions(marginals.double().numpy(), states, nothing)
    measures = gather_statistics(predicted, data.targets).measures()
    return {
        "images": len(data),
        "hamming": measures.hamming,
        "mean_average_precision": measures.mean_average_precision,
    }


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`photos`: how good the predictions are, and how far they moved."""
    lines = [
        [
            row["learned_from"],
            row["photos"],
            f"{row['images']:,d}",
            percent(row["hamming"]),
            percent(row["mean_average_precision"]),
            f"{row['moved']:.4f}" if "moved" in row else "",
        ]
        for row in results["rows"]
    ]
    head = ["learned from", "photos", "number", "wrong, %", "mAP, %", "mean move of a probability"]
    return {"photos": frame.table(lines, head)}


if __name__ == "__main__":
    main()
