"""Data of a run that is repeated: a digest, and what has changed since."""

import hashlib
import os
from pathlib import Path

from mlcrf.checkpoint import SPLITS
from mlcrf.data.manifest import Manifest
from mlcrf.data.readers import ReadOptions
from mlcrf.data.readers.table import read_table
from mlcrf.errors import MlcrfError
from mlcrf.labels import load_labels
from mlcrf.shipped_models import LABELS


def digest_data(manifest: Manifest) -> str:
    """Return the SHA-256 of labels, values, splits, and names and sizes of the images, in order.

    Of a table of numbers, the features take the place of images. Names are relative to the images'
    common folder, so that data can be moved as a whole.

    Args:
        manifest: data as read, before images are put into splits.
    """
    digest = hashlib.sha256("\n".join(manifest.labels).encode())
    digest.update(manifest.targets.tobytes())
    for said in manifest.mentions.values():
        digest.update(said.tobytes())
    digest.update(repr(manifest.rules.names(manifest.labels)).encode())
    for limit in manifest.rules.limits:
        digest.update(limit.text(manifest.labels.names).encode())
    if manifest.features is not None:
        digest.update(repr(manifest.feature_names).encode() + manifest.features.tobytes())
    addresses = [image.address for image in manifest.images]
    start = os.path.commonprefix(addresses).rfind("/") + 1  # noqa: RUF071 - also of URLs
    splits = manifest.splits or ("",) * len(addresses)
    for image, address, split in zip(manifest.images, addresses, splits, strict=True):
        stamp = None if image.is_remote else image.stamp()
        size = "" if stamp is None else stamp.size
        line = f"{address[start:]}\n{size}\n{split}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def describe_changes(manifest: Manifest, run: Path) -> str:
    """Return how data differ from those of a run, as its table of splits tells.

    Args:
        manifest: data whose digest differs from that of the run.
    """
    try:
        labels = load_labels(run / LABELS)
        known = ReadOptions(labels=labels, run_features=manifest.feature_names)
        before = read_table(run / SPLITS, known, check_images=False)
    except MlcrfError as error:
        return str(error)
    if set(labels) != set(manifest.labels):
        return "other labels"
    columns = labels.columns_in(manifest.labels)
    now = {
        image.key: row.tobytes()
        for image, row in zip(manifest.images, manifest.targets[:, columns], strict=True)
    }
    then = {
        image.key: row.tobytes() for image, row in zip(before.images, before.targets, strict=True)
    }
    counts = {
        "new": len(now.keys() - then.keys()),
        "gone": len(then.keys() - now.keys()),
        "with other labels": sum(then[key] != now[key] for key in then.keys() & now.keys()),
    }
    told = [f"{count} {what}" for what, count in counts.items() if count]
    return f"images: {', '.join(told)}" if told else "other files, splits or order of images"
