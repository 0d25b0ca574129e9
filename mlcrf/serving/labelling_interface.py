"""The `Choices` of a labelling interface of Label Studio, and the labels that they ask for.

Source: https://labelstud.io/tags/choices, https://labelstud.io/tags/choice and
https://labelstud.io/tags/image.
"""

from dataclasses import dataclass

from mlcrf.errors import DataError
from mlcrf.keywords.xmp import parse_xml
from mlcrf.labels import LabelSpace, fold

_SINGLE = frozenset({"single", "single-radio"})


@dataclass(frozen=True)
class Choices:
    """One `Choices` tag.

    Attributes:
        name: name of the tag.
        to_name: name of the image's tag.
        is_single: whether only one choice can be made.
        texts: column of a label -> text of the choice in results.
    """

    name: str
    to_name: str
    is_single: bool
    texts: dict[int, str]


@dataclass(frozen=True)
class LabellingInterface:
    """The choices about one image.

    Attributes:
        key: key of the image's address in the data of a task.
        choices: the tags with at least one label.
        not_labels: choices that the model does not know.
    """

    key: str
    choices: tuple[Choices, ...]
    not_labels: tuple[str, ...]

    @property
    def columns(self) -> frozenset[int]:
        """The labels that are asked for."""
        return frozenset(column for one in self.choices for column in one.texts)


def read_interface(config: str, labels: LabelSpace) -> LabellingInterface:
    """Read the XML of a labelling interface; choices are labels of the same name in any case.

    Choices per region are left out: regions are not predicted.

    Raises:
        DataError: not XML, no choices about an image or about several, or no choice is a label.
    """
    try:
        root = parse_xml(config.encode(errors="replace"))
    except ValueError as error:
        raise DataError(f"the labelling interface cannot be read: {error}") from error
    images = {
        tag.get("name", ""): tag.get("value", "").removeprefix("$") for tag in root.iter("Image")
    }
    columns = {fold(name): column for column, name in enumerate(labels)}
    columns |= {name: column for column, name in enumerate(labels)}
    found: list[Choices] = []
    not_labels: list[str] = []
    for tag in root.iter("Choices"):
        to_name = tag.get("toName", "")
        if to_name not in images or tag.get("perRegion") == "true":
            continue
        texts: dict[int, str] = {}
        for choice in tag.iter("Choice"):
            value = str(choice.get("value", ""))
            name = value.strip()
            column = columns.get(name, columns.get(fold(name)))
            if column is None:
                not_labels.append(name)
            else:
                texts[column] = choice.get("alias") or value
        is_single = tag.get("choice", "single") in _SINGLE
        found.append(Choices(tag.get("name", ""), to_name, is_single, texts))
    keys = {images[one.to_name] for one in found}
    if len(keys) != 1:
        count = "several images" if keys else 'an Image with value="$..."'
        problem = "its Choices are about" if keys else "it has no Choices about"
        raise DataError(f"the labelling interface cannot be used: {problem} {count}")
    usable = tuple(one for one in found if one.texts)
    if not usable:
        raise DataError(
            f"no choice of the labelling interface ({_some(not_labels)}) is a label of the model "
            f"({_some(list(labels))})"
        )
    return LabellingInterface(keys.pop(), usable, tuple(not_labels))


def _some(names: list[str]) -> str:
    shown = ", ".join(name[:40] for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown or "none"
