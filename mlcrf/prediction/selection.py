"""Select and rename the labels to write, alike for all outputs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mlcrf.data.pairs import load_rows
from mlcrf.errors import LabelsError, SettingsError
from mlcrf.labels import LabelSpace, fold
from mlcrf.prediction.record import Family, Prediction
from mlcrf.rules import Rules


class LabelSelection:
    """A selection among the labels of each prediction, with the user's own names.

    A label that was decided present is kept if it is in `only`, not in `never`, and has a
    probability of at least `min_prob`, if probabilities are known. The result obeys the
    rules: all labels that a kept label implies are kept too, even if `only` or `min_prob`
    exclude them, and `never` also excludes all labels that imply an excluded one. Of the labels
    that are left open, and of those that a family of label sets names, those are kept that `only`
    and `never` allow. Probabilities are not changed.

    Args:
        labels: labels of the run.
        rules: rules of the run.
        renamed: the user's own names of some labels; see `load_names`.
        only: None keeps all labels.

    Attributes:
        given: labels by their names in the run.
        renamed: the user's own names.
        labels: labels by the user's own names, in the order of the run.
        rules: as given.

    Raises:
        LabelsError: unknown label.
        SettingsError: `min_prob` is not a probability, or `never` forbids a label in `only`.
    """

    def __init__(
        self,
        labels: LabelSpace,
        rules: Rules = Rules(),
        *,
        renamed: Mapping[str, str] | None = None,
        only: Sequence[str] | None = None,
        never: Sequence[str] = (),
        min_prob: float = 0.0,
    ) -> None:
        if not 0 <= min_prob <= 1:
            raise SettingsError(f"--min-prob: expected 0 to 1, got {min_prob}")
        for option, names in (("--only", only or ()), ("--never", never)):
            for name in names:
                labels.index(name, option)
        self.rules = rules
        self._column = {name: at for at, name in enumerate(labels)}
        self.given = labels
        forbidden = self._named(rules.with_children(self._column[name] for name in never))
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
        """Return the prediction with the kept labels, by the user's own names."""
        probability = dict(zip(self.given, prediction.marginals, strict=False))
        left = self._with_parents(
            name
            for name in prediction.labels
            if name in self._allowed and probability.get(name, 1.0) >= self._min_prob
        )
        abstained = (self._allowed & set(prediction.abstained)) - left
        confirmed = self._with_parents(prediction.confirmed) & left
        return replace(
            prediction,
            labels=tuple(self._name[name] for name in self.given if name in left),
            confirmed=tuple(self._name[name] for name in self.given if name in confirmed),
            abstained=tuple(self._name[name] for name in self.given if name in abstained),
            family=None if prediction.family is None else self._of_family(prediction.family),
        )

    def _of_family(self, family: Family) -> Family:
        """Return a family with the labels that `only` and `never` allow; its sets are not fewer."""
        named = (
            tuple(self._name[name] for name in self.given if name in self._allowed & set(names))
            for names in (family.present, family.open)
        )
        present, left = named
        return replace(family, present=present, open=left)

    def _with_parents(self, names: Iterable[str]) -> frozenset[str]:
        return self._named(self.rules.with_parents(self._column[name] for name in names))

    def _named(self, columns: Iterable[int]) -> frozenset[str]:
        return frozenset(self.given.names[column] for column in columns)


def load_names(path: Path, labels: LabelSpace) -> dict[str, str]:
    """Load the user's own names of labels from a CSV file, one `label,name` per line.

    A first line `label,name` and blank lines are skipped. Labels that do not occur keep their
    names.

    Raises:
        DataError: no such file, not UTF-8, a line without exactly two names.
        LabelsError: a label is unknown or occurs twice, or a name is invalid or used twice; gives
            the line.
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
            raise LabelsError(f"{path}:{line}: {label!r} occurs on line {line_of[label]} too")
        line_of[label], names[label] = line, name
    owner: dict[str, str] = {fold(name): name for name in labels if name not in names}
    for label, name in names.items():
        other = owner.setdefault(fold(name), label)
        if other != label:
            raise LabelsError(
                f"{path}:{line_of[label]}: {name!r} would be the name of {other!r} too, as "
                "case does not tell names apart"
            )
    return names
