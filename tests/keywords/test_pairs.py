"""What `tag` does to collections as other programs leave them; MLCRF_PAIRS sets their number."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mlcrf.images import as_image
from mlcrf.keywords.keyword_lists import LISTS, READING_ORDERS, TAGS_LIST
from mlcrf.keywords.retagging import Author
from mlcrf.keywords.sidecar_places import PhotoPlaces
from mlcrf.keywords.xmp import Packet, Property
from mlcrf.labels import LabelSpace
from mlcrf.prediction import Prediction
from mlcrf.prediction.photo_files.sidecars import Sidecars
from mlcrf.rules import Rules
from tests.keywords.pairs import KeywordPath, Pair, draw_pairs

COUNT = int(os.environ.get("MLCRF_PAIRS", "100"))
LABELS = LabelSpace(("sea", "people", "people_r1", "night"))
RULES = Rules.from_names((("people_r1", "people"),), LABELS)
OURS = set(LABELS.names)
Lists = dict[str, list[KeywordPath]]
needs_exiftool = pytest.mark.skipif(
    shutil.which("exiftool") is None, reason="exiftool is not installed; make ci-system does"
)


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    return draw_pairs(tmp_path, COUNT)


def tag(pairs: Iterable[Pair]) -> list[Path]:
    """Tag all pairs, and return their sidecars."""
    writer = Sidecars(PhotoPlaces(), Author("model", "c0ffee"), LABELS, RULES)
    return [writer.write(Prediction(as_image(one.photo), LABELS.names)).path for one in pairs]


def undo(pairs: Iterable[Pair]) -> None:
    for one in pairs:
        Sidecars(PhotoPlaces()).undo(as_image(one.photo))


def levels(paths: Iterable[KeywordPath]) -> set[str]:
    """All levels; digiKam writes a backslash where one has its separator."""
    return {level.casefold().replace("\\", "/") for path in paths for level in path}


def ours_read(paths: list[Path]) -> list[Lists]:
    """The lists of sidecars, as we read them."""
    packets = [Packet(path.read_bytes()) for path in paths]
    return [{str(one.keywords): one.paths(packet) for one in LISTS} for packet in packets]


def exiftool_reads(paths: list[Path]) -> list[Lists]:
    """The lists of sidecars, as exiftool reads them."""
    command = ["exiftool", "-json", "-G1", *map(str, paths)]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return [
        {
            str(one.keywords): _paths(
                values.get(_exiftool_name(str(one.keywords)), []), one.separator
            )
            for one in LISTS
        }
        for values in json.loads(raw)
    ]


def _exiftool_name(name: str) -> str:
    space, _, name = name.partition(":")
    space = "microsoft" if space.startswith("MicrosoftPhoto") else space
    return f"XMP-{space}:{name[0].upper()}{name[1:]}"


def _paths(value: object, separator: str) -> list[KeywordPath]:
    """exiftool's JSON has a list, or one text; ACDSee's text is XML."""
    values = [str(one) for one in (value if isinstance(value, list) else [value])]
    if values and values[0].startswith("<Categories>"):
        return list(_assigned(ElementTree.fromstring(values[0])))
    return [tuple(one.split(separator) if separator else [one]) for one in values]


def _assigned(category: ElementTree.Element, above: KeywordPath = ()) -> Iterator[KeywordPath]:
    for one in category:
        path = (*above, one.text or "")
        if one.get("Assigned") == "1":
            yield path
        yield from _assigned(one, path)


@pytest.mark.parametrize("read", [ours_read, pytest.param(exiftool_reads, marks=needs_exiftool)])
def test_every_program_finds_the_persons_keywords_and_ours(
    pairs: list[Pair], read: Callable[[list[Path]], list[Lists]]
) -> None:
    """In the first list that is not empty: all that it showed before, ours, and nothing else."""
    found = read(tag(pairs))
    assert len(found) == COUNT
    for pair, lists in zip(pairs, found, strict=True):
        theirs = [path for paths in pair.lists.values() for path in paths] + pair.embedded
        for order in READING_ORDERS.values():
            names = [str(one.keywords) for one in order]
            before = pair.lists.get(names[0], theirs)
            after = next(lists[name] for name in names if lists[name])
            last = levels(path[-1:] for path in before)
            assert last | OURS <= levels(after) <= levels(theirs) | OURS, pair.sidecar


EDITS = {
    "exiftool": ["-XMP-dc:Subject+=mine", "-XMP-xmp:Rating=3", "-overwrite_original", "-q"],
    "exiv2": ["-Mset Xmp.dc.subject XmpBag mine", "-Mset Xmp.xmp.Rating 3"],
}


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=reason))
        for name, reason in ((one, f"{one} is not installed; make ci-system does") for one in EDITS)
    ],
)
def test_an_edit_by_another_program_in_between(pairs: list[Pair], program: str) -> None:
    """The person's keywords are left in the lists where they were, and the new one; not ours."""
    sidecars = tag(pairs)
    subprocess.run([program, *EDITS[program], *map(str, sidecars)], check=True)
    undo(pairs)
    for pair, lists in zip(pairs, ours_read(sidecars), strict=True):
        theirs = [path for paths in pair.lists.values() for path in paths] + pair.embedded
        for name, paths in pair.lists.items():
            now = [*lists[name], *(lists[name.replace("0:", ":")])]  # two URIs of Microsoft's
            now += lists[name.replace("Photo:", "Photo0:")]
            left, was = (
                {tuple(level.casefold().replace("\\", "/") for level in path) for path in some}
                for some in (now, paths)
            )
            assert was <= left, (pair.sidecar, name)
        assert ("mine",) in lists["dc:subject"]
        left = levels(path for paths in lists.values() for path in paths)
        assert left == levels(theirs) | {"mine"}, pair.sidecar


@pytest.mark.parametrize("addition", [[], [("Trip", "mine")]])
def test_lists_that_we_made_go_if_nothing_is_lost(
    pairs: list[Pair], addition: list[KeywordPath]
) -> None:
    """After an edit, the lists are those of before; but one that got a keyword stays as it is."""
    with_lists = [one for one in pairs if one.sidecar is not None and any(one.lists.values())]
    before = ours_read([one.sidecar for one in with_lists if one.sidecar])
    sidecars = tag(with_lists)
    for path in sidecars:
        packet = Packet(path.read_bytes())
        packet.set_text(Property("xmp", "Rating"), "3")
        TAGS_LIST.add(packet, addition)
        path.write_bytes(packet.to_bytes())
    undo(with_lists)
    for pair, was, now in zip(with_lists, before, ours_read(sidecars), strict=True):
        theirs = [*addition, *(path for paths in was.values() for path in paths)]
        kept = {name for name, paths in was.items() if paths}
        kept |= {"digiKam:TagsList"} if addition else set()
        assert {name for name, paths in now.items() if paths} == kept, pair.sidecar
        for name in kept:
            assert levels(was[name]) <= levels(now[name]) <= levels(theirs), (pair.sidecar, name)
        if addition and not was["digiKam:TagsList"]:
            assert levels(now["digiKam:TagsList"]) == levels(theirs)


def test_undo_gives_back_the_same_bytes(pairs: list[Pair]) -> None:
    """Also after a second run with other labels; what was not there is gone."""
    before = {path: path.read_bytes() for path in pairs[0].photo.parent.iterdir()}
    tag(pairs)
    after = {path: path.read_bytes() for path in pairs[0].photo.parent.iterdir()}
    tag(pairs)
    assert {path: path.read_bytes() for path in pairs[0].photo.parent.iterdir()} == after
    undo(pairs)
    assert {path: path.read_bytes() for path in pairs[0].photo.parent.iterdir()} == before
