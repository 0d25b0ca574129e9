"""Words of messages about a wrong value: the closest name, and what is accepted instead."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from enum import Enum
from typing import Any

# by a type of pydantic's errors, or its first word
_NOUNS = {
    "missing": "is missing",
    "extra_forbidden": "is unknown",
    "unexpected_keyword_argument": "is unknown",
    "finite_number": "a finite number",
    "too_short": "at least one",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "an object of keys and values",
    "model": "an object of keys and values",
    "dataclass": "an object of keys and values",
}
_TYPES: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}
_BOUNDS = ("ge", "gt", "le", "lt")


def did_you_mean(word: str, known: Iterable[str], *, most: int = 1) -> str:
    """Return `; did you mean 'NAME'?` for the known name closest to a word, else an empty text."""
    by_folded = {name.casefold(): name for name in known}
    close = get_close_matches(word.casefold(), by_folded, n=most)
    names = ", ".join(repr(by_folded[one]) for one in close)
    return f"; did you mean {names}?" if close else ""


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number with its noun, such as `1 image` or `2 images`.

    Args:
        many: the form for other numbers than 1; by default `one` and an s.
    """
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def are(count: int) -> str:
    """Return the verb that goes with a number of things: `is` or `are`."""
    return "is" if count == 1 else "are"


def expected(kind: Any, **bounds: float | None) -> str:
    """Return what a value of this type is, such as `a whole number from 1 to 40`.

    Args:
        kind: a class; the values of an enumeration are all named.
        bounds: any of `ge`, `gt`, `le`, `lt`, as pydantic names them.
    """
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(str(one.value) for one in kind)}"
    return f"{_TYPES.get(kind, 'text')}{_range(**bounds)}"


def choose(word: object, kind: type[Enum]) -> str:
    """Return what an enumeration accepts, what was given, and the value closest to it."""
    values = [str(one.value) for one in kind]
    return f"expected {expected(kind)}, got {word!r}{did_you_mean(str(word), values)}"


def describe_fault(fault: Mapping[str, Any]) -> str:
    """Return one of the `errors()` of a pydantic ValidationError in our words."""
    kind, context = str(fault["type"]), fault.get("ctx", {})
    bounds = {name: context[name] for name in _BOUNDS if name in context}
    if bounds:
        return f"expected a number{_range(**bounds)}"
    if "expected" in context:  # of an enumeration
        return f"expected {context['expected'].replace(chr(39), '')}"
    noun = _NOUNS.get(kind) or _NOUNS.get(kind.partition("_")[0])
    if noun is not None:
        return noun if noun.startswith("is ") else f"expected {noun}"
    return str(fault["msg"]).removeprefix("Value error, ")


def _range(
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> str:
    low = f" from {ge}" if ge is not None else f" above {gt}" if gt is not None else ""
    high = f"{le}" if le is not None else f"below {lt}" if lt is not None else ""
    if gt is not None and le is not None:
        return f"{low}, at most {le}"
    if low and high:
        return f"{low} to {high}"
    if high:
        return f" {high}" if lt is not None else f" of at most {high}"
    return f" of at least {ge}" if ge is not None else low
