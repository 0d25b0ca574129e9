"""Tar files of WebDataset: `0001.jpg` and its tags, `0001.json` or `0001.txt`, in one tar."""

import json
from pathlib import Path

from mlcrf.data.columns import LIST_COLUMNS
from mlcrf.data.files import load_text
from mlcrf.data.manifest import Manifest
from mlcrf.data.problems import Problems
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.readers.reader import Reader
from mlcrf.data.readers.tag_files import load_tags
from mlcrf.data.tags import Tags, folder_manifest, parse_tags, unknown_tags
from mlcrf.errors import DataError
from mlcrf.hints import are, counted
from mlcrf.images import Image
from mlcrf.images.containers import find_tars, members
from mlcrf.images.file_kinds import is_image_name
from mlcrf.labels import LabelSpace


def read_webdataset(path: Path, options: ReadOptions = ReadOptions()) -> Manifest:
    """Read a tar file of images with tags, or all in a folder; nothing is unpacked.

    Members of a sample have the same name up to the first dot. Tags are a list under `labels` (or
    `tags`) in a `.json`, or a `.txt` as in `read_tag_folder`. Images without tags are left out, and
    counted in the notes. Without expected labels, all tags become labels, sorted.

    Raises:
        DataError: a damaged tar file, no image with tags, or unexpected tags.

    Cost: reads all headers, and every file of tags.
    """
    problems, labels = Problems(options.max_problems), options.labels
    images: list[Image] = []
    tags: list[Tags] = []
    untagged = without_image = 0
    for tar in find_tars(path):
        by_key: dict[Path, dict[str, Image]] = {}
        for member in members(tar):
            stem, _, ending = member.file_name.partition(".")
            kind = "image" if is_image_name(member.file_name) else ending.lower()
            by_key.setdefault(member.location.with_name(stem), {})[kind] = member
        for parts in by_key.values():
            if "image" not in parts:
                without_image += bool({"json", "txt"} & parts.keys())
                continue
            if "json" in parts:
                tags.append(_json_tags(parts["json"], options.label_sep, labels, problems))
            elif "txt" in parts:
                tags.append(load_tags(parts["txt"], options.label_sep or ",", labels, problems))
            else:
                untagged += 1
                continue
            images.append(parts["image"])
    problems.raise_if_any()
    if not images:
        raise DataError("no image has tags; expected 1.json or 1.txt next to 1.jpg", path)
    notes = (
        [f"{counted(untagged, 'image')} without tags {are(untagged)} left out"] if untagged else []
    )
    if without_image:
        notes.append(
            f"{counted(without_image, 'file of tags belongs', 'files of tags belong')} to no image "
            f"and {are(without_image)} not used"
        )
    return folder_manifest(path, images, tags, labels, notes)


def _json_tags(
    file: Image, separator: str | None, labels: LabelSpace | None, problems: Problems
) -> Tags:
    try:
        record = json.loads(load_text(file, problems) or "{}")
        key = next(one for one in LIST_COLUMNS if one in record)
        found = parse_tags(record[key], separator or ",")
    except (ValueError, TypeError, RecursionError) as error:
        problems.add(file, f"cannot be read as JSON with a list of labels: {error}")
        return None
    except StopIteration:
        problems.add(file, "has neither `labels` nor `tags`")
        return None
    for message in unknown_tags(found, labels) if labels and found else ():
        problems.add(file, message)
    return found


WEBDATASET = Reader(
    name="webdataset",
    describes="a .tar, or a folder of them, of images with tags in .json or .txt (WebDataset)",
    detects=lambda path: bool(find_tars(path)),
    read=read_webdataset,
)
