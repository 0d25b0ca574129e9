"""Judge whether a data set is plausible, before anything is learned from it or scored on it."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mlcrf.choices import Oddity
from mlcrf.data.manifest import Manifest, Split
from mlcrf.errors import DataError, printable
from mlcrf.hints import counted
from mlcrf.labels import LabelSpace

_SHOWN = 10
_FEW = 3
_MANY_IMAGES = 10  # from here on, a label of its own for almost every image is a caption
_MISSING_WORDS = frozenset(
    {"nan", "none", "null", "nil", "n/a", "na", "<na>", "#n/a", "-", "--", "undefined", "missing"}
    | {"unlabeled", "unlabelled", "unannotated", "untagged"}
)
_SHEET_ERROR = re.compile(r"#[A-Z/0]+[!?]")  # #REF!, #NAME?, #DIV/0!
_OPENING, _CLOSING, _QUOTES = "[{(", "]})", "'\"`"
_COORDINATES = re.compile(r"\d+(\s+[-+]?\d*\.?\d+(e[-+]?\d+)?){4,}", re.IGNORECASE)
_DECIMAL = re.compile(r"[-+]?(\d*\.\d+(e[-+]?\d+)?|\d+e[-+]\d+)", re.IGNORECASE)
_IMAGE_NAME = re.compile(r".*\.(jpe?g|png|gif|webp|tiff?|bmp|heic)", re.IGNORECASE)
_SCORED = re.compile(r".*[^\W\d].*[:=]\s*([01]|\d*\.\d+%?|\d+%)\s*\)?")  # sea:0.9, sea=1, (sea:1.2)
_BITS = re.compile(r"[01]([\s,;]*[01])+")
_JOINTS = ("/", "\\", "+", "#", "&", "\u00b7", "\u2022", "~", ":", ".", "-", "_", "<br>", "<br/>")
_WITHIN_NAMES = frozenset({":", ".", "-", "_"})  # those that single labels often have
_NEGATION = re.compile(r"(?:no|not|non|without)[ _-]+(.+)|[-!~\u00ac]\s*(.+)", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """An oddity of a data set, in words with a remedy."""

    oddity: Oddity
    message: str

    def __str__(self) -> str:
        return f"{self.message}. If this is right, use --accept {self.oddity}."


def find_oddities(manifest: Manifest, *, check_names: bool = True) -> list[Finding]:
    """Return what is most likely wrong in a data set.

    Args:
        check_names: whether to judge the names of labels; not if they were expected.

    Cost: O(N L).
    """
    names = manifest.labels.names if check_names else ()
    found = [_no_absent(manifest), _bad_names(names), _missing_words(names)]
    if manifest.lists_positives:
        found += [_vectors(names, manifest), _combinations(names)]
    return [one for one in found if one is not None]


def require_plausible(
    manifest: Manifest,
    accept: Collection[Oddity],
    place: object = None,
    *,
    check_names: bool = True,
) -> Manifest:
    """Return the manifest with notes about doubtful properties.

    Args:
        accept: oddities that are noted and not refused.
        place: the data set in messages; its name by default.
        check_names: see `find_oddities`.

    Raises:
        DataError: an oddity that is not accepted.
    """
    found = find_oddities(manifest, check_names=check_names)
    refused = [one for one in found if one.oddity not in accept]
    if refused:
        source = manifest.name if place is None else place
        raise DataError("\n".join(str(DataError(str(one), source)) for one in refused))
    notes = [f"accepted ({one.oddity}): {one.message}" for one in found]
    return replace(manifest, notes=(*manifest.notes, *notes, *_doubts(manifest)))


def merge_spellings(manifest: Manifest, labels: LabelSpace | None = None) -> Manifest:
    """Return the manifest with labels that differ in spelling only as one label.

    A merged label has its most frequent spelling, or that of `labels`; it is present where any is,
    else unknown where any is.
    """
    counts = (manifest.targets == 1).sum(0)
    groups: dict[str, list[int]] = defaultdict(list)
    for column, name in enumerate(manifest.labels):
        groups[spelling(name)].append(column)
    expected = set(labels or ())
    names = []
    targets = np.empty((len(manifest), len(groups)), dtype=np.int8)
    for place, columns in enumerate(groups.values()):
        first = max(columns, key=lambda at: (manifest.labels.names[at] in expected, counts[at]))
        names.append(manifest.labels.names[first])
        own = manifest.targets[:, columns]
        targets[:, place] = np.where((own == 1).any(1), 1, own.min(1))
    rules = manifest.rules
    if len(groups) < len(manifest.labels) and len(rules):
        raise DataError("labels of rules cannot be merged; leave out --fold-case")
    return replace(manifest, targets=targets, labels=LabelSpace(tuple(names)))


def summarise(manifest: Manifest) -> str:
    """Return one or two lines that say how a data set was understood."""
    splits = "no splits"
    if manifest.splits is not None:
        sizes = Counter(manifest.splits)
        splits = ", ".join(f"{one.value} {sizes[one]}" for one in Split if sizes[one])
    counts = (manifest.targets == 1).sum(0)
    shown = [
        f"{printable(name)} {count}"
        for name, count in zip(manifest.labels.names[:_SHOWN], counts.tolist(), strict=False)
    ]
    more = len(manifest.labels) - len(shown)
    kind = f" ({manifest.layout})" if manifest.layout else ""
    lines = [
        f"data: {manifest.name}{kind}: {counted(len(manifest), 'image')} ({splits}), "
        f"{counted(len(manifest.labels), 'label')}: "
        f"{', '.join(shown)}{f' and {more} more' if more else ''}"
    ]
    return "\n".join([*lines, *(f"data: {fact}" for fact in manifest.facts)])


def _no_absent(manifest: Manifest) -> Finding | None:
    """Find cells of 1 and blank only, of which nothing can be learned unless blank is 0."""
    known = manifest.targets >= 0
    if len(manifest) < 2 or manifest.lists_positives or known.all() or not known.any():
        return None
    if (manifest.targets == 0).any():
        return None
    return Finding(
        Oddity.NO_ABSENT,
        "no label is absent in any image: all known cells are 1, so that nothing can be "
        "learned; if blank cells (or keys left out) mean absent, use --blank absent; if -1 does, "
        "use --false -1",
    )


def _bad_names(names: Sequence[str]) -> Finding | None:
    wrong = [name for name in names if _is_no_name(name)]
    if not wrong:
        return None
    return Finding(
        Oddity.LABEL_NAMES,
        f"{_some(wrong)} {'looks' if len(wrong) == 1 else 'look'} like a part of a list, a "
        "number or a file, not like a label; check the column and --label-sep",
    )


def _is_no_name(name: str) -> bool:
    first, last = name[0], name[-1]
    if first in "[{" or last in "]}" or first in _QUOTES or (last in _QUOTES[1:]):
        return True
    unbalanced = any(
        name.count(a) != name.count(b) for a, b in zip(_OPENING, _CLOSING, strict=True)
    )
    if unbalanced and (first in _OPENING + _CLOSING or last in _OPENING + _CLOSING):
        return True
    patterns = (_COORDINATES, _DECIMAL, _IMAGE_NAME, _SCORED)
    return any(pattern.fullmatch(name) for pattern in patterns)


def _missing_words(names: Sequence[str]) -> Finding | None:
    wrong = [
        name for name in names if name.casefold() in _MISSING_WORDS or _SHEET_ERROR.fullmatch(name)
    ]
    if not wrong:
        return None
    return Finding(
        Oddity.MISSING_WORDS,
        f"label {_some(wrong)} looks like a missing value; leave the cell empty where the labels "
        "are unknown, or write [] where there are none",
    )


def _vectors(names: Sequence[str], manifest: Manifest) -> Finding | None:
    """Find lists that are vectors of 0 and 1: texts such as 011, or [0, 1] beside [1, 0]."""
    as_text = all(map(_BITS.fullmatch, names)) and len(set(map(len, names))) == 1
    as_list = tuple(names) == ("0", "1") and bool((manifest.targets == 1).all())
    if not names or not (as_text or as_list):
        return None
    return Finding(
        Oddity.LABEL_NAMES,
        f"labels {_some(names)} look like vectors of 0 and 1, not like names; write one column "
        "per label",
    )


def _combinations(names: Sequence[str]) -> Finding | None:
    """Find labels that are combinations of words that other labels have too.

    Words are joined by spaces or another sign. As names may well have such a sign within them, the
    words must then also be fewer than their combinations; or each must be a label on its own, for
    signs other than hyphens and the like. Numbers between spaces are always combinations, of class
    numbers.
    """
    for sign in (*_JOINTS, None):
        words = {name: [one for one in map(str.strip, name.split(sign)) if one] for name in names}
        several = [name for name, own in words.items() if len(own) > 1]
        if len(several) < 2:
            continue
        used = Counter(word for own in words.values() for word in set(own))
        shared = [name for name in several if all(used[word] > 1 for word in words[name])]
        distinct = {word for name in several for word in words[name]}
        if sign is None and all(word.isdecimal() for word in distinct):
            shared = several
        alone = {name for name, own in words.items() if len(own) == 1}
        is_made_of_labels = sign not in _WITHIN_NAMES and distinct <= alone
        few_words = sign is None or len(distinct) <= len(several) or is_made_of_labels
        if len(shared) * 2 <= len(several) or not few_words:
            continue
        what = f"{sign!r} separates" if sign else "spaces separate"
        return Finding(
            Oddity.COMBINATIONS,
            f"{len(shared)} labels are combinations of the same words, such as {_some(shared)}; if "
            f"{what} labels, use --label-sep {(sign or ' ')!r}",
        )
    return None


def _doubts(manifest: Manifest) -> Iterable[str]:
    """Yield notes about what may be right."""
    targets, names = manifest.targets, manifest.labels.names
    where = ""
    if manifest.splits is not None and Split.TRAIN in manifest.splits:
        targets = targets[[one == Split.TRAIN for one in manifest.splits]]
        where = " in the training images"
    absent = [name for name, on in zip(names, (targets == 0).any(0), strict=True) if not on]
    present = [name for name, on in zip(names, (targets == 1).any(0), strict=True) if not on]
    absent = [name for name in absent if name not in present]
    if present:
        yield f"no image{where} has {_some(present)}"
    if absent:
        yield f"no image{where} is known to be without {_some(absent)}"
    if names and all(name.isdecimal() for name in names):
        yield f"labels are numbers, such as {_some(names)}; names would say more in every output"
    if len(targets) > 1 and (targets == 1).all():
        hint = "; if spaces separate labels, use --label-sep ' '" if _has_space(names) else ""
        yield f"every image{where} has every label, so that nothing can be learned{hint}"
    tagged = int((manifest.targets == 1).any(1).sum())
    own = (manifest.targets == 1).sum(0) == 1
    if tagged >= _MANY_IMAGES and int(own.sum()) * 10 >= tagged * 9:
        example = names[int(np.argmax(own))]
        yield (
            f"{int(own.sum())} labels occur once, such as {example!r}, in {tagged} images; these "
            "may be captions or names"
        )
    yield from _doubtful_names(names)


def _doubtful_names(names: Sequence[str]) -> Iterable[str]:
    """Yield notes about names that look alike, negated or damaged."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[spelling(name)].append(name)
    for group in alike.values():
        if len(group) > 1:
            yield f"labels {_some(group)} differ in spelling only; --fold-case makes them one"
    for name in names:
        found = _NEGATION.fullmatch(name)
        of = alike.get(spelling(found[1] or found[2]), []) if found else []
        if of:
            yield f"label {name!r} looks like the absence of {of[0]!r}, and is learned as its own"
    entities = [name for name in names if re.search(r"&(\w+|#\d+);?", name)]
    if entities:
        yield f"label {_some(entities)} contains an HTML entity"
    if damaged := [name for name in names if _is_damaged(name)]:
        yield f"label {_some(damaged)} looks damaged by a wrong encoding; save the data as UTF-8"


def _is_damaged(name: str) -> bool:
    """Return whether a name was decoded with a wrong encoding, such as `caf\u00c3\u00a9`."""
    try:
        return "\ufffd" in name or name.encode("cp1252").decode() != name
    except UnicodeError:
        return False


def _has_space(names: Iterable[str]) -> bool:
    return any(" " in name for name in names)


def spelling(name: str) -> str:
    """Return a name without what does not matter: case, spaces, accents' composition, `#x`, `x.`"""
    name = "".join(sign for sign in name if unicodedata.category(sign) != "Cf")  # of no width
    plain = " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split())
    return plain.removeprefix("#").removesuffix(".") or plain


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:60]) for name in names[:_FEW])
    return shown if len(names) <= _FEW else f"{shown} and {len(names) - _FEW} more"
