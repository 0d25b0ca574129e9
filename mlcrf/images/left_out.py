"""Count what a walk leaves out, by kind."""

from collections import Counter
from os.path import basename

from mlcrf.errors import printable
from mlcrf.images.file_kinds import Kind, kind_of_file, kind_of_folder, suffix_of

_OWN = ".mlcrf-"  # logs of tag files, earlier files, and files that are being written
_MOST_SUFFIXES = 100  # counted
_SHOWN_SUFFIXES = 3
# The user may expect images in these, so that the first is named.
_NAMED = (Kind.BUNDLE, Kind.LINKED_FOLDER, Kind.UNREADABLE)
_FOLDERS = (
    Kind.BUNDLE,
    Kind.HIDDEN_FOLDER,
    Kind.LINKED_FOLDER,
    Kind.RECYCLE_BIN,
    Kind.THUMBNAILS,
)


class LeftOut:
    """The files and folders that a walk has left out so far, by kind. False if there are none.

    A folder that is left out is not entered, and counts as one.
    """

    def __init__(self) -> None:
        self._counts: Counter[Kind] = Counter()
        self._first: dict[Kind, str] = {}
        self._suffixes: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __getitem__(self, kind: Kind) -> int:
        return self._counts[kind]

    def takes_file(self, name: str) -> bool:
        """Return whether a file is an image; count it if it is not."""
        kind = kind_of_file(name)
        if kind is not None:
            self.add_file(kind, name)
        return kind is None

    def add_file(self, kind: Kind, name: str) -> None:
        """Count a file that is no image; those that mlcrf writes beside images do not count."""
        if name.startswith(_OWN):
            return
        self._counts[kind] += 1
        if kind is Kind.OTHER:
            suffix = suffix_of(name)
            if suffix in self._suffixes or len(self._suffixes) < _MOST_SUFFIXES:
                self._suffixes[suffix] += 1

    def takes_folder(self, path: str) -> bool:
        """Return whether a folder is to be entered; count it if it is not, nor mlcrf's own."""
        name = basename(path)  # noqa: PTH119 - quick, also for URLs
        kind = kind_of_folder(name)
        if kind is not None and not name.startswith(_OWN):
            self.add(kind, path)
        return kind is None

    def add(self, kind: Kind, path: str) -> None:
        """Count a file or folder that is left out for another reason than its name."""
        self._counts[kind] += 1
        self._first.setdefault(kind, path)

    def take_back(self, name: str) -> None:
        """Uncount a file that `takes_file` has counted."""
        kind = kind_of_file(name)
        if kind is not None and self._counts[kind] > 0:
            self._counts[kind] -= 1
            self._counts = +self._counts

    def forget(self, kind: Kind) -> None:
        """Uncount all files of a kind."""
        del self._counts[kind]

    def __str__(self) -> str:
        """The counts in words, such as `45 RAW files, 12 videos`."""
        return ", ".join(self._described(kind) for kind in Kind if self._counts[kind])

    def _described(self, kind: Kind) -> str:
        count = self._counts[kind]
        text = kind.counted(count)
        if kind in _NAMED:
            more = "" if count == 1 else ", ..."
            return f"{text} ({printable(self._first[kind])}{more})"
        if kind is Kind.RAW:
            return f"{text} (to read them: pip install 'mlcrf[raw]')"
        if kind is Kind.OTHER:
            suffixes = [one or "no suffix" for one, _ in self._suffixes.most_common()]
            more = ", ..." if len(suffixes) > _SHOWN_SUFFIXES else ""
            return f"{text} ({', '.join(map(printable, suffixes[:_SHOWN_SUFFIXES]))}{more})"
        return text

    def explain_none(self) -> str:
        """Return a line that no images were found, and what was left out."""
        text = "no images found"
        if self:
            text += f"; left out: {self}"
        if any(self._counts[kind] for kind in _FOLDERS):
            text += "; a folder that you name is walked all the same"
        return text

    def record(self) -> dict[str, int]:
        """Return the counts for JSON."""
        return {kind.key: self._counts[kind] for kind in Kind if self._counts[kind]}
