"""The labels that are written as present, and their names: the same for all outputs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mlcrf.data.pairs import load_rows
from mlcrf.errors import LabelsError, SettingsError
from mlcrf.implications import Implications
from mlcrf.labels import LabelSpace
from mlcrf.prediction.record import Prediction


class LabelSelection:
    """The part of each prediction that is written.

    Of the labels that were decided present, those are kept that are in `only`, not in `never`, and
    have a probability of `min_prob` or more, if there are probabilities. The result obeys the
    implications: a label that is kept keeps all that it implies, whatever `only` and `min_prob`
    say of those; and `never` holds for all labels that imply one in it, too. Probabilities stay as
    they are.

    Args:
        labels: of the run.
        implications: the run's.
        renamed: the user's own names of some labels; see `load_names`.
        only: None for all.

    Attributes:
        given: the labels by the names of the run.
        renamed: the user's own names.
        labels: by the user's own names, in the order of the run.
        implications: as given.

    Raises:
        LabelsError: a label that there is not.
        SettingsError: a probability that is none, or a label in `only` that `never` forbids.
    """

    def __init__(
        self,
        labels: LabelSpace,
        implications: Implications = Implications(),
        *,
        renamed: Mapping[str, str] | None = None,
        only: Sequence[str] | None = None,
        never: Sequence[str] = (),
        min_prob: float = 0.0,
    ) -> None:
        if not 0 <= min_prob <= 1:
            raise SettingsError(f"--min-prob: expected 0 to 1, got {min_prob}")
        for name in (*(only or ()), *never):
            labels.index(name)
        self.implications = implications
        self._column = {name: at for at, name in enumerate(labels)}
        self.given = labels
        forbidden = self._named(implications.with_children(self._column[name] for name in never))
        for name in only or ():
            if name in forbidden:
                implied = ", ".join(sorted(self._with_parents([name]) & set(never)))
                raise SettingsError(f"--only {name}: --never {implied} forbids it; take one out")
        self._allowed = frozenset(labels if only is None else only) - forbidden
        self._min_prob = min_prob
        self.renamed = dict(renamed or {})
        self._name = {name: self.renamed.get(name, name) for name in labels}
        self.labels = LabelSpace(tuple(self._name[name] for name in labels))

    def __call__(self, prediction: Prediction) -> Prediction:
        """The prediction with the labels that are left, by the user's own names."""
        probability = dict(zip(self.given, prediction.marginals, strict=False))
        left = self._with_parents(
            name
            for name in prediction.labels
            if name in self._allowed and probability.get(name, 1.0) >= self._min_prob
        )
        confirmed = self._with_parents(prediction.confirmed) & left
        return replace(
            prediction,
            labels=tuple(self._name[name] for name in self.given if name in left),
            confirmed=tuple(self._name[name] for name in self.given if name in confirmed),
        )

    def _with_parents(self, names: Iterable[str]) -> frozenset[str]:
        return self._named(self.implications.with_parents(self._column[name] for name in names))

    def _named(self, columns: Iterable[int]) -> frozenset[str]:
        return frozenset(self.given.names[column] for column in columns)


def load_names(path: Path, labels: LabelSpace) -> dict[str, str]:
    """Load the user's own names of labels from a CSV file, `label,name` a line.

    A first line `label,name` and blank lines are skipped. Labels that are not in it keep their
    names.

    Raises:
        DataError: no such file, not UTF-8, a line without exactly two names.
        LabelsError: an unknown label, one that stands twice, a name that two labels would have or
            that none can; with the line.
    """
    line_of: dict[str, int] = {}
    names: dict[str, str] = {}
    for line, (label, name) in load_rows(path, ("label", "name")):
        try:
            labels.index(label)
            LabelSpace((name,))
        except LabelsError as error:
            raise LabelsError(f"{path}:{line}: {error}") from error
        if label in names:
            raise LabelsError(f"{path}:{line}: {label!r} stands on line {line_of[label]} too")
        line_of[label], names[label] = line, name
    owner: dict[str, str] = {name: name for name in labels if name not in names}
    for label, name in names.items():
        if owner.setdefault(name, label) != label:
            raise LabelsError(
                f"{path}:{line_of[label]}: {name!r} would be the name of {owner[name]!r} too"
            )
    return names
