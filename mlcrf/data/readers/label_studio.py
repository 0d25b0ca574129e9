"""Label Studio: choices about images, exported as JSON, JSON_MIN, CSV or TSV.

Source: https://labelstud.io/guide/export (JSON, JSON_MIN, CSV; Label Studio JSON format of
annotated tasks), https://labelstud.io/tags/choices, https://labelstud.io/guide/storage (Local
storage), `upload_name_generator` in label_studio/data_import/models.py of its repository, and
src/label_studio_sdk/converter/exports/csv2.py of label-studio-sdk (columns and cells of CSV).
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import BaseModel, TypeAdapter, ValidationError

from mlcrf.data.files import load_text
from mlcrf.data.image_paths import FoundImages, find_images
from mlcrf.data.manifest import Manifest
from mlcrf.data.problems import Problems
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.readers.reader import Reader
from mlcrf.data.table_files import IMAGE_COLUMNS, load_records
from mlcrf.data.tags import parse_tags, tag_targets, unknown_tags, vocabulary
from mlcrf.errors import DataError
from mlcrf.hints import counted, describe_fault
from mlcrf.images.file_kinds import is_image_name
from mlcrf.labels import UNKNOWN
from mlcrf.stores import Stored

_LOCAL_FILES = "/data/local-files/"
_UPLOADED = "/data/upload/"
_MEDIA = "/data"  # the address of Label Studio's own folder `media`
_LONGEST_HEADER = 2**16
_UPLOAD_MARK = re.compile(r"(?<=/)[0-9a-f]{8}-(?=[^/]+$)")  # before the name of an uploaded file
# Columns that JSON_MIN and CSV add to the data and the results of a task; CSV has all of the first.
_ALWAYS = frozenset({"annotator", "annotation_id", "created_at", "updated_at", "lead_time"})
_ADDED = _ALWAYS | {"id", "agreement", "history"}


class _Result(BaseModel):
    type: str = ""
    value: dict[str, Any] = {}


class _Annotation(BaseModel):
    result: list[_Result] = []
    was_cancelled: bool | None = None
    ground_truth: bool | None = None


class _Task(BaseModel):
    """The parts of a task that are used."""

    id: int | str = ""
    data: dict[str, Any]
    annotations: list[_Annotation] = []


@dataclass(frozen=True)
class _Answers:
    """The choices of all annotators about one image.

    Attributes:
        place: the task, in words.
        address: path or URL of the image, as Label Studio names it.
        chosen: one set of labels per annotator.
    """

    place: str
    address: str
    chosen: list[frozenset[str]]

    @property
    def agreed(self) -> frozenset[str]:
        return frozenset.intersection(*self.chosen)

    @property
    def disputed(self) -> frozenset[str]:
        return frozenset.union(*self.chosen) - self.agreed


def read_label_studio(path: Path, options: ReadOptions = ReadOptions()) -> Manifest:
    """Read the choices of an export; a choice that nobody made is absent.

    Skipped (cancelled) annotations and tasks without annotation are left out. If an annotation is
    the ground truth, the others of its task do not count; labels on which annotators disagree are
    unknown.

    Images are named `/data/upload/1/1a2b3c4d-im1.jpg` or `/data/local-files/?d=dir/im1.jpg`: they
    are in `image_root`, by default the file's folder, as `find_images` finds them, an upload also
    without the mark that Label Studio puts before its name.

    Raises:
        DataError: not such an export, no choices, missing images.
        LabelsError: the labels differ from `options.labels`.
    """
    problems = Problems(options.max_problems)
    listed = _load_answers(path, options, problems)
    answers = [one for one in listed if one.chosen]
    problems.raise_if_any()
    if not answers:
        raise DataError(f"none of its {len(listed)} tasks has an annotation with choices", path)
    root = path.parent if options.image_root is None else options.image_root
    found = _find_images([one.address for one in answers], root)
    for row, fault in sorted(found.faults.items()):
        problems.add(path, f"{answers[row].place}: {fault}")
    chosen = [frozenset.union(*one.chosen) for one in answers]
    if options.labels is not None and not options.fold_case:
        for one, names in zip(answers, chosen, strict=True):
            for fault in unknown_tags(names, options.labels):
                problems.add(path, f"{one.place}: {fault}")
    _refuse_repeated(answers, found, path, problems)
    problems.raise_if_any()
    space = options.labels or vocabulary(chosen, path)
    targets = tag_targets([one.agreed for one in answers], space)
    column = {name: place for place, name in enumerate(space)}
    for row, one in enumerate(answers):
        targets[row, [column[name] for name in one.disputed]] = UNKNOWN
    return Manifest(
        tuple(image for image in found.images if image is not None),
        targets,
        space,
        None,
        path.stem,
        notes=(*found.notes, *_notes(answers, len(listed))),
        lists_positives=True,
    )


def _load_answers(path: Path, options: ReadOptions, problems: Problems) -> list[_Answers]:
    """Return the answers about each task; none if it has no annotation."""
    if path.suffix.lower() != ".json":
        rows = _load_rows(path, problems)
        return _minimal_answers(rows, path, options, problems)
    text = load_text(path, problems)
    problems.raise_if_any()
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON: {error}", path) from error
    if _is_minimal(rows):
        return _minimal_answers(rows, path, options, problems)
    return _answers(text, path, problems)


def _load_rows(path: Path, problems: Problems) -> list[dict[str, Any]]:
    """Return the rows of a CSV as those of JSON_MIN, which has no key for an empty cell."""
    records = load_records(path, problems)
    problems.raise_if_any()
    cells = [[_parsed(str(cell)) for cell in column] for column in records.columns.values()]
    return [
        {name: cell for name, cell in zip(records.columns, row, strict=True) if cell != ""}
        for row in zip(*cells, strict=True)
    ]


def _parsed(cell: str) -> Any:
    """Return a record or list that a cell holds as JSON; any other cell as it is."""
    if not cell.startswith(("{", "[")):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell


def _notes(answers: Sequence[_Answers], listed: int) -> Iterator[str]:
    if left_out := listed - len(answers):
        yield f"{left_out} tasks without annotation, or skipped, are left out"
    disputed = [one for one in answers if one.disputed]
    if disputed:
        first = disputed[0]
        yield (
            f"annotators disagree about {counted(len(disputed), 'image')}, such as {first.place} "
            f"({', '.join(sorted(first.disputed))}); these labels are unknown there"
        )


def _answers(text: str, path: Path, problems: Problems) -> list[_Answers]:
    """Return the answers of an export as JSON; tasks without annotation have none."""
    try:
        tasks = TypeAdapter(list[_Task]).validate_json(text)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_context=False, include_input=False):
            number, *where = fault["loc"]
            inside = ".".join(map(str, where))
            problems.add(path, f"task {number} from 0: {inside}: {describe_fault(fault)}")
        return []
    kinds = Counter(
        result.type for task in tasks for one in task.annotations for result in one.result
    )
    if kinds and not kinds["choices"]:
        problems.add(
            path, f"holds no choices but {', '.join(sorted(kinds))}; export boxes as COCO or VOC"
        )
        return []
    answers = []
    for number, task in enumerate(tasks):
        place = f"task {task.id or number}"
        done = [one for one in task.annotations if not one.was_cancelled]
        done = [one for one in done if one.ground_truth] or done
        address = _address(task.data, place, path, problems) if done else ""
        answers.append(
            _Answers(place, address, [_chosen(one, place, path, problems) for one in done])
        )
    return answers


def _chosen(annotation: _Annotation, place: str, path: Path, problems: Problems) -> frozenset[str]:
    names: set[str] = set()
    for result in annotation.result:
        if result.type != "choices":
            continue
        try:
            names |= parse_tags(result.value.get("choices", []), None) or frozenset()
        except ValueError as error:
            problems.add(path, f"{place}: choices: {error}")
    return frozenset(names)


def _minimal_answers(
    rows: list[dict[str, Any]], path: Path, options: ReadOptions, problems: Problems
) -> list[_Answers]:
    """Return the answers of an export as JSON_MIN or CSV, which have one row per annotation."""
    columns = _choice_columns(rows, path, options.label_columns)
    answers: dict[object, _Answers] = {}
    for number, row in enumerate(rows):
        task = row.get("id", number)
        place = f"task {task}"
        if task not in answers:
            data = {key: row[key] for key in row if key not in columns}
            answers[task] = _Answers(place, _address(data, place, path, problems), [])
        names: set[str] = set()
        for column in columns & row.keys():
            try:
                names |= parse_tags(row[column], None) or frozenset()
            except ValueError as error:
                problems.add(path, f"{place}: {column}: {error}")
        answers[task].chosen.append(frozenset(names))
    return list(answers.values())


def _choice_columns(
    rows: list[dict[str, Any]], path: Path, named: Sequence[str] | None
) -> set[str]:
    """Return the columns with choices: those with a record of several, else the only text.

    Args:
        named: the columns, as the user says.

    Raises:
        DataError: none, or several that can be meant; or there is no column of a name.
    """
    cells = [(key, value) for row in rows for key, value in row.items()]
    if named is not None:
        for name in named:
            if all(key != name for key, _ in cells):
                raise DataError(f"has no column {name!r} with choices", path)
        return set(named)
    several = {
        key for key, value in cells if isinstance(value, dict) and list(value) == ["choices"]
    }
    texts = {
        key
        for key, value in cells
        if isinstance(value, str)
        and key not in _ADDED
        and key not in IMAGE_COLUMNS
        and not _is_image_address(value)
    }
    if several or len(texts) == 1:
        return several or texts
    if texts:
        raise DataError(
            f"it is not clear where its choices are: any of {', '.join(sorted(texts))}; name the "
            "columns with --label-columns, or export as JSON",
            path,
        )
    regions = sorted({key for key, value in cells if isinstance(value, list)})
    hint = f" but lists in {', '.join(regions)}; export boxes as COCO or VOC" if regions else ""
    raise DataError(f"holds no choices{hint}", path)


def _address(data: dict[str, Any], place: str, path: Path, problems: Problems) -> str:
    """Return the path or URL of a task's image."""
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    named = [texts[key] for key in IMAGE_COLUMNS if key in texts][:1]
    found = named or [value for value in texts.values() if _is_image_address(value)]
    if len(found) != 1:
        problems.add(path, f"{place}: its data name {len(found) or 'no'} images; expected one")
        return ""
    if found[0].startswith("data:"):
        problems.add(path, f"{place}: its image is in the address itself; save it as a file")
        return ""
    return found[0]


def _is_image_address(text: str) -> bool:
    return is_image_name(_as_path(text).rpartition("/")[2])


def _find_images(addresses: Sequence[str], root: Path | Stored) -> FoundImages:
    """Find images by their addresses; uploads also by the name that they had before."""
    paths = [_as_path(one) for one in addresses]
    found = find_images(paths, root)
    own = {
        row: _UPLOAD_MARK.sub("", paths[row])
        for row in found.faults
        if _UPLOADED in addresses[row] and _UPLOAD_MARK.search(paths[row])
    }
    again = find_images([own.get(row) for row in range(len(paths))], root)
    named = [row for row in own if row not in again.faults]
    for row in named:
        del found.faults[row]
        found.images[row] = again.images[row]
    notes = [*found.notes, *again.notes]
    if named:
        notes.append(
            f"{len(named)} uploads are found by the names that they had before, such as "
            f"{paths[named[0]]} as {found.images[named[0]]}"
        )
    return FoundImages(found.images, found.faults, notes)


def _as_path(address: str) -> str:
    """Return the path that an address of Label Studio's own server means; others as they are."""
    parts = urlsplit(address)
    if parts.scheme not in {"", "http", "https"}:
        return address
    if parts.path == _LOCAL_FILES:
        return "/" + parse_qs(parts.query).get("d", [""])[0].lstrip("/")
    if parts.path.startswith(_UPLOADED):
        return unquote(parts.path.removeprefix(_MEDIA))
    return address


def _refuse_repeated(
    answers: Sequence[_Answers], found: FoundImages, path: Path, problems: Problems
) -> None:
    first: dict[str, str] = {}
    for one, image in zip(answers, found.images, strict=True):
        if image is None:
            continue
        before = first.setdefault(image.address, one.place)
        if before != one.place:
            problems.add(path, f"{one.place}: {image} is the image of {before} too; remove one")


def _is_minimal(rows: object) -> bool:
    return isinstance(rows, list) and any("annotation_id" in row for row in rows)


def is_label_studio(path: Path) -> bool:
    """Return whether a file is a list of tasks, or a list or table of annotations."""
    if path.suffix.lower() in {".csv", ".tsv"} and path.is_file():
        with path.open(encoding="utf-8-sig", errors="replace") as lines:
            return set(re.findall(r"\w+", lines.readline(_LONGEST_HEADER))) >= _ALWAYS
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    with path.open("rb") as stream:
        if stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] != b"[":
            return False
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    if not rows or not all(isinstance(row, dict) for row in rows):
        return False
    keys = {key for row in rows for key in row}
    is_task = "data" in keys and bool(keys & {"annotations", "predictions"})
    return is_task or "annotation_id" in keys


LABEL_STUDIO = Reader(
    name="label-studio",
    describes="the .json or .csv of Label Studio (JSON, JSON_MIN, CSV, TSV)",
    detects=is_label_studio,
    read=read_label_studio,
    uses_image_root=True,
)
