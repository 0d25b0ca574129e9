"""A data set of drawn scenes, their table of labels, and the CRF of the labels."""

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlcrf.data.manifest import Split
from mlcrf.errors import DataError, SettingsError
from mlcrf.synthetic.planted import PlantedCrf, make_planted_crf
from mlcrf.synthetic.scenes import draw_scene, visibility

TABLE = "labels.csv"
TRUTH = "truth.json"
COUPLINGS_TABLE = "couplings.csv"
IMAGES = "images"
MADE_BY = "mlcrf.synthetic"
SHARES = ((Split.TRAIN, 0.60), (Split.VALIDATION, 0.15), (Split.TEST, 0.25))


def make_dataset(
    folder: Path,
    *,
    seed: int = 0,
    num_images: int = 6000,
    image_size_px: int = 64,
    coupling_strength: float = 1.0,
) -> Path:
    """Draw a data set whose couplings are known.

    The folder holds `images/*.jpg`, `labels.csv` (image, split, one 0/1 column per label),
    `truth.json` (the planted CRF) and `couplings.csv` (its matrix, with names). It is written
    atomically, and replaces an earlier synthetic data set.

    Args:
        seed: random seed of label sets and pixels; image k does not depend on `num_images`.
        num_images: 60 % train, 15 % validation, 25 % test, in this order.
        coupling_strength: factor on the planted couplings; marginals do not change.

    Returns:
        The path of `labels.csv`.

    Raises:
        SettingsError: a setting is out of range.
        DataError: `folder` exists and is not a synthetic data set, or it cannot be written.

    Cost: about 3 ms per image. Same seed, same Pillow and numpy: same bits.
    """
    if seed < 0:
        raise SettingsError(f"seed is {seed}: expected 0 or more")
    if not 4 <= num_images <= 1_000_000:
        raise SettingsError(f"num_images is {num_images}: expected from 4 to 1000000")
    if not 32 <= image_size_px <= 1024:
        raise SettingsError(f"image_size_px is {image_size_px}: expected from 32 to 1024")
    planted = make_planted_crf(coupling_strength=coupling_strength)
    states = planted.sample(num_images, np.random.default_rng((seed, 0)))
    names = _image_names(num_images)
    with _replacing_folder(folder) as fresh:
        (fresh / IMAGES).mkdir()
        for number, (name, present) in enumerate(zip(names, states, strict=True)):
            rng = np.random.default_rng((seed, 1, number))
            scene = draw_scene(present, planted, rng, image_size_px=image_size_px)
            scene.save(fresh / name, quality=90)
        _write_table(fresh / TABLE, planted, names, states)
        _write_couplings(fresh / COUPLINGS_TABLE, planted)
        settings = {
            "seed": seed,
            "num_images": num_images,
            "image_size_px": image_size_px,
            "coupling_strength": coupling_strength,
        }
        _write_truth(fresh / TRUTH, planted, settings)
    return folder / TABLE


def split_by_order(num_images: int) -> list[Split]:
    """Return the splits: the first 60 % train, the next 15 % validation, the rest test."""
    train, validation, _ = (share for _, share in SHARES)
    ends = (round(num_images * train), round(num_images * (train + validation)), num_images)
    counts = np.diff((0, *ends)).tolist()
    return [split for (split, _), count in zip(SHARES, counts, strict=True) for _ in range(count)]


def _write_table(
    path: Path, planted: PlantedCrf, names: list[str], states: NDArray[np.int8]
) -> None:
    splits = split_by_order(len(names))
    rows = zip(names, splits, states.tolist(), strict=True)
    header = ["image", "split", *planted.labels]
    _write_csv(path, header, ([name, split.value, *state] for name, split, state in rows))


def _write_couplings(path: Path, planted: PlantedCrf) -> None:
    rows = zip(planted.labels, planted.pairwise_matrix.tolist(), strict=True)
    _write_csv(path, ["label", *planted.labels], ([name, *row] for name, row in rows))


def _write_truth(path: Path, planted: PlantedCrf, settings: dict[str, int | float]) -> None:
    kinds = [visibility(name, planted) for name in planted.labels]
    truth = {
        "made_by": MADE_BY,
        "settings": settings,
        "labels": list(planted.labels),
        "hard": list(planted.hard),
        "bias": planted.bias.tolist(),
        "pairwise_matrix": planted.pairwise_matrix.tolist(),
        "marginals": planted.marginals().tolist(),
        "mark_if_present": [kind.if_present for kind in kinds],
        "mark_if_absent": [kind.if_absent for kind in kinds],
    }
    path.write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")


def _write_csv(path: Path, header: list[str], rows: Iterable[list[str | int | float]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


@contextmanager
def _replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, and rename it to `folder` once it is complete."""
    target = Path(os.path.realpath(folder))
    _refuse_foreign(target, folder)
    work: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # The renamed folder is inside it, so that it has the usual permissions.
        work = Path(
            tempfile.mkdtemp(prefix=f".{target.name[:80]}.", suffix=".part", dir=target.parent)
        )
        fresh = work / "fresh"
        fresh.mkdir()
        yield fresh
        _refuse_foreign(target, folder)
        if target.exists():
            target.rename(work / "earlier")
        try:
            fresh.rename(target)
        except OSError:
            if (work / "earlier").exists():
                (work / "earlier").rename(target)
            raise
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written: {error.strerror or error}. "
            "Check free space and permissions, or choose another place."
        ) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def _refuse_foreign(target: Path, folder: Path) -> None:
    """Refuse a folder that is not missing, empty, or an unchanged synthetic data set."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not _is_ours(target):
        raise DataError(
            f"{folder}: exists and is not an unchanged synthetic data set; "
            "it is not changed. Choose another folder."
        )


def _is_ours(target: Path) -> bool:
    try:
        truth = json.loads((target / TRUTH).read_text(encoding="utf-8"))
        if not isinstance(truth, dict) or truth.get("made_by") != MADE_BY:
            return False
        files = {entry.name for entry in target.iterdir()}
        images = {entry.name for entry in (target / IMAGES).iterdir()}
    except (OSError, ValueError):
        return False
    expected = {Path(name).name for name in _image_names(truth["settings"]["num_images"])}
    return files == {IMAGES, TABLE, TRUTH, COUPLINGS_TABLE} and images == expected


def _image_names(num_images: int) -> list[str]:
    return [f"{IMAGES}/{number:06d}.jpg" for number in range(num_images)]
