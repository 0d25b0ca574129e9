"""`mlcrf predict` beside its own limits and beside the scripts that users would write.

    make bench-predict [DATA=folder RUN=run OUT=file.json]

For photos of three sizes, in one run on the same threads: decoding alone, the network alone, the
CRF alone, the whole of `mlcrf predict` from files to a table, a script with timm and a `DataLoader`
and the image-classification pipeline of transformers. All use the run's backbone and its
independent head (both scripts as one timm model), read pictures in the same way, and must agree on
what they predict. Larger photos are made from the test photos, with grain, for sharp ones are not
to be had.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from tables import format_tables
from timing import describe_machine, median_ratio, take_turns
from torch.utils.data import DataLoader, Dataset
from whole_command import measure_engines, measure_memory, measure_start

from mlcrf.backbones.engines import make_engine
from mlcrf.backbones.extractor import BATCH_SIZE
from mlcrf.checkpoint import Run, load_run
from mlcrf.choices import EngineName
from mlcrf.data.manifest import Split
from mlcrf.data.readers import ReadOptions, read_dataset
from mlcrf.data.splits import split_manifest
from mlcrf.images import as_image
from mlcrf.images.pixels import load_pixels
from mlcrf.inference import prepare
from mlcrf.prediction import PredictionWriter, Tagger

SIZES: dict[str, tuple[tuple[int, int], int]] = {
    "128 x 128": ((128, 128), 2000),
    "500 x 375": ((500, 375), 2000),
    "4,000 x 3,000": ((4000, 3000), 300),
}
_SCRIPT_BATCH, _SCRIPT_PHOTOS = 32, 512
_TOLERANCE = 1e-3  # between probabilities of different engines
_REDUCED_TOLERANCE = 0.01  # mean, where JPEGs are decoded at reduced size


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a line a row, write the JSON file and the tables."""
    options = _parse(arguments)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    run = load_run(options.run)
    data = split_manifest(read_dataset(options.data, ReadOptions(run.label_set)), seed=0)
    test = [Path(image.name) for image in data.part(Split.TEST).images]
    rows, start, turns = [], [], 1 if options.quick else 5
    began = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for name, (size, wanted) in SIZES.items():
            count = min(wanted, len(test), 40 if options.quick else wanted)
            place = Path(folder) / name.replace(" ", "")
            photos = make_photos(test[:count], place / "photos", size)
            reduced = min(size) >= 4 * run.backbone_spec.size_px
            measured = measure(run, photos, turns=turns, reduced=reduced)
            rows.append({"photos": name, "count": count} | measured)
            print(json.dumps(rows[-1]), flush=True)
            start.append({"photos": name} | measure_start(options.run, photos, place))
            print(json.dumps(start[-1]), flush=True)
        counts = [n // (100 if options.quick else 1) for n in (10_000, 200_000)]
        memory = measure_memory(options.run, test[0], counts, Path(folder) / "many")
    size_px = run.backbone_spec.size_px
    pixels = np.stack([load_pixels(as_image(path), size_px) for path in test[:BATCH_SIZE]])
    names = ("mlcrf", "timm", "transformers", "openvino")
    machine = describe_machine()
    machine["versions"] |= {name: version(name) for name in names}
    parts = {"predict": rows, "engines": measure_engines(run, pixels), "start": start}
    result = machine | {"quick": options.quick, "seconds": perf_counter() - began}
    result |= parts | {"memory": memory}
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"\n{format_tables(result)}\nwrote {options.out}")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of MIRFLICKR")
    parser.add_argument("--run", type=Path, required=True, help="run, or a model's name")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("predict.json"))
    parser.add_argument("--quick", action="store_true", help="40 photos of each size")
    return parser.parse_args(arguments)


def make_photos(images: Iterable[Path], folder: Path, size: tuple[int, int]) -> list[Path]:
    """The photos in that size, with grain as a camera's, as JPEGs of quality 90."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 6, (size[1], size[0], 1)).astype(np.float32)

    def make(image: Path) -> Path:
        path = folder / image.name
        with Image.open(image) as opened:
            if opened.size == size:
                path.write_bytes(image.read_bytes())
                return path
            large = opened.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        pixels = np.clip(np.asarray(large, np.float32) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=90)
        return path

    with ThreadPoolExecutor() as pool:
        return list(pool.map(make, images))


def measure(run: Run, photos: list[Path], *, turns: int, reduced: bool) -> dict[str, Any]:
    """Photos a second of every part and every program, and how they compare.

    Where mlcrf decodes at reduced size the scripts see other pixels, so that there only the mean
    difference of probabilities has to be small.

    The parts and mlcrf take turns; the scripts, which take long, run once, on fewer photos.
    """
    alone, programs = _parts_alone(run, photos), _programs(run)
    found, seconds = {}, {}
    few = photos[:_SCRIPT_PHOTOS]
    for name, program in programs.items():
        program(photos[:BATCH_SIZE])  # compiles networks; nothing is kept of photos
        began = perf_counter()
        found[name] = program(few)
        seconds[name] = [(perf_counter() - began) * len(photos) / len(few)]
    seconds |= take_turns(alone | {"mlcrf": lambda: programs["mlcrf"](photos)}, turns=turns)
    apart = np.stack([np.abs(rows - found["mlcrf"]) for rows in found.values()])
    off = float(apart.mean() if reduced else apart.max())
    if off > (_REDUCED_TOLERANCE if reduced else _TOLERANCE):
        raise SystemExit(f"predictions differ by {off:.2g}, more than they may")
    speed = {f"{name}_images_per_s": len(photos) / median(took) for name, took in seconds.items()}
    limit = [sum(parts) for parts in zip(*(seconds[name] for name in alone), strict=True)]
    best = max(speed["timm_script_images_per_s"], speed["hf_pipeline_images_per_s"])
    return speed | {
        "limit_images_per_s": len(photos) / median(limit),
        "limit_share": median_ratio(limit, seconds["mlcrf"]),
        "crf_share": median_ratio(seconds["crf"], seconds["mlcrf"]),
        "over_scripts": speed["mlcrf_images_per_s"] / best,
        "largest_difference": float(apart.max()),
        "mean_difference": float(apart.mean()),
    }


def _parts_alone(run: Run, photos: list[Path]) -> dict[str, Callable[[], None]]:
    """Decoding, the network and the CRF, each warm and on as many photos."""
    size_px, count = run.backbone_spec.size_px, len(photos)
    engine = make_engine(EngineName.AUTO, run.make_backbone(), torch.device("cpu"))
    first = np.stack([load_pixels(as_image(path), size_px) for path in photos[:BATCH_SIZE]])
    features = engine(first)
    inputs = torch.from_numpy(np.tile(features, (-(-count // len(features)), 1))[:count])
    inference = prepare(run.make_inference(), run.crf(inputs[:1]), leave_out=1e-6)

    def decode() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(lambda path: load_pixels(as_image(path), size_px), photos):
                pass

    def network() -> None:
        for start in range(0, count, BATCH_SIZE):
            engine(first[: min(BATCH_SIZE, count - start)])

    @torch.no_grad()
    def crf() -> None:
        for part in inputs.split(256):
            inference(run.crf(part))
            run.independent(part).unary.sigmoid()

    return {"decode": decode, "network": network, "crf": crf}


def _programs(run: Run) -> dict[str, Callable[[list[Path]], np.ndarray]]:
    """From photos to the probabilities of the independent head, (N, L)."""
    tagger = Tagger(run)

    def mlcrf(photos: list[Path]) -> np.ndarray:
        rows = []
        with (
            tempfile.TemporaryDirectory() as folder,
            PredictionWriter(Path(folder) / "tags.csv", run.labels) as writer,
        ):
            for prediction in tagger.predict(photos):
                writer.write(prediction)
                rows.append(prediction.independent)
        return np.array(rows)

    return {"mlcrf": mlcrf, "timm_script": TimmScript(run), "hf_pipeline": HfPipeline(run)}


def _classifier(run: Run) -> torch.nn.Module:
    """The run's network and independent head as one model of timm's."""
    name = f"tf_efficientnet_{run.backbone_spec.name}"
    model = timm.create_model(name, num_classes=len(run.labels))
    model.load_state_dict(run.make_backbone().network.state_dict(), strict=False)
    head = model.get_classifier()
    assert isinstance(head, torch.nn.Linear) and run.independent.hidden is None
    head.load_state_dict(run.independent.output.state_dict())
    return model.eval()


class _Photos(Dataset[torch.Tensor]):
    def __init__(self, photos: list[Path], size_px: int) -> None:
        self._photos, self._size_px = photos, size_px

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self._photos[index]) as image:
            square = image.convert("RGB").resize((self._size_px,) * 2, Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)
        return (pixels.float() / 255 - 0.5) / 0.5


class TimmScript:
    """As timm's own inference script: a model in evaluation mode and a loader with workers."""

    def __init__(self, run: Run) -> None:
        self._model, self._size_px = _classifier(run), run.backbone_spec.size_px

    @torch.inference_mode()
    def __call__(self, photos: list[Path]) -> np.ndarray:
        """Probabilities (N, L)."""
        data = _Photos(photos, self._size_px)
        loader = DataLoader(data, batch_size=_SCRIPT_BATCH, num_workers=os.cpu_count() or 1)
        return np.concatenate([self._model(batch).sigmoid().numpy() for batch in loader])


class HfPipeline:
    """`pipeline("image-classification")` of transformers around the same timm model."""

    def __init__(self, run: Run) -> None:
        from transformers import (
            TimmWrapperConfig,
            TimmWrapperForImageClassification,
            TimmWrapperImageProcessor,
            pipeline,
        )

        self._names = run.labels.names
        size = run.backbone_spec.size_px
        pixels = {
            "input_size": (3, size, size),
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "squash",
        }
        config = TimmWrapperConfig(
            architecture=f"tf_efficientnet_{run.backbone_spec.name}",
            pretrained_cfg=pixels,
            num_labels=len(self._names),
            id2label=dict(enumerate(self._names)),
            label2id={name: number for number, name in enumerate(self._names)},
        )
        model = TimmWrapperForImageClassification(config)
        model.timm_model.load_state_dict(_classifier(run).state_dict())
        self._pipe = pipeline(
            "image-classification",
            model=model.eval(),
            image_processor=TimmWrapperImageProcessor(pretrained_cfg=pixels),
            function_to_apply="sigmoid",
        )

    def __call__(self, photos: list[Path]) -> np.ndarray:
        """Probabilities (N, L)."""
        files: Iterator[str] = map(str, photos)
        rows = []
        results = self._pipe(
            list(files),
            batch_size=_SCRIPT_BATCH,
            num_workers=os.cpu_count() or 1,
            top_k=len(self._names),
        )
        for result in results:
            scores = {one["label"]: one["score"] for one in result}
            rows.append([scores[name] for name in self._names])
        return np.array(rows)


if __name__ == "__main__":
    main()
