"""Options of reading a data set, for what the data do not state."""

from dataclasses import dataclass
from pathlib import Path

from mlcrf.choices import Blank, Oddity
from mlcrf.errors import SettingsError
from mlcrf.labels import LabelSpace
from mlcrf.stores import Stored


@dataclass(frozen=True)
class ReadOptions:
    """Options for facts that the data do not state.

    Attributes:
        label_set: MIRFLICKR annotations: 24 potential, 14 relevant, or 38 both.
        image_root: folder that image paths in a table are relative to; None is the table's folder.
        label_sep: separator of labels in a text; None detects it.
        labels: expected labels, in any order; None takes them from the data.
        max_problems: number of errors listed; more are counted.
        blank: meaning of a cell without a value in a table; None is unknown, and refused where
            no cell is 0.
        label_columns: columns of a table that hold labels, or of an export of Label Studio that
            hold choices; None finds them.
        ignore_columns: columns of a table that are not used.
        split_column: column of a table with train, validation or test; None finds it.
        true_words, false_words: further texts for 1 and 0 in a table.
        fold_case: labels that differ in case, spaces or composition of accents are one.
        accept: oddities that are not refused.
        features: columns of a table that are features, by name or pattern such as `f*`; None finds
            a column of lists of numbers.
        run_features: names of the features that a run learned from: their columns are found by
            name, and rows are told by their id columns.
    """

    label_set: int = 24
    image_root: Path | Stored | None = None
    label_sep: str | None = None
    labels: LabelSpace | None = None
    max_problems: int = 20
    blank: Blank | None = None
    label_columns: tuple[str, ...] | None = None
    ignore_columns: tuple[str, ...] = ()
    split_column: str | None = None
    true_words: tuple[str, ...] = ()
    false_words: tuple[str, ...] = ()
    fold_case: bool = False
    accept: frozenset[Oddity] = frozenset()
    features: tuple[str, ...] | None = None
    run_features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a word for both values.

        Raises:
            SettingsError: a word stands for 1 and for 0.
        """
        absent = {word.lower() for word in self.false_words}
        if both := [word for word in self.true_words if word.lower() in absent]:
            raise SettingsError(f"--true {both[0]} --false {both[0]}: a word has one meaning")
