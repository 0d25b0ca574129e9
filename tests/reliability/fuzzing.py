"""Texts, numbers and damaged files for tests that try many, and counts of how they ended."""

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from mlcrf.errors import MlcrfError
from mlcrf.labels import LabelSpace
from mlcrf.rules import Rules
from tests.reliability.scale import times

T = TypeVar("T")
LABEL_SPACE = LabelSpace(("sea", "sky", "indoor"))
RULES = Rules.from_names([("sea", "sky")], LABEL_SPACE)


def fuzz(full: int, least: int) -> settings:
    """So many examples in full, the same ones every time."""
    return settings(
        max_examples=max(times(full), least),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,  # a folder whose files each example replaces
            HealthCheck.too_slow,  # the first example imports what reads
            HealthCheck.data_too_large,  # cells beyond the limit of csv
        ],
    )


class Outcomes(Counter[str]):
    """How often something was taken and refused; a test in which either never is tries nothing."""

    def attempt(self, action: Callable[[], T], name: object = "", *, lines: int = 1) -> T | None:
        """What an action gives, or None if it is refused in lines that all name what is wrong."""
        try:
            result = action()
        except MlcrfError as error:
            told = str(error).splitlines()
            faults = [line for line in told if not line.startswith("... and ")]
            assert 1 <= len(told) <= lines, told
            assert faults and all(str(name) in line for line in faults), told
            self["refused"] += 1
            return None
        self["taken"] += 1
        return result

    def require_both(self) -> None:
        print(dict(self))
        assert self["taken"] and self["refused"]


TOKENS = (
    *(b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\xc2\x85"),
    *(b'"', b'""', b"'", b"\\", b"\r", b"\n", b"\r\n", b"\n\n\n", b"\t", b",", b";", b"=", b"=>"),
    *(b"-1", b"NaN", b"1e999", b"-Infinity", b"9" * 400, b"9" * 5000, b"0x" + b"f" * 4000),
    *(b"null", b"true", b"[]", b"{}", b"[" * 2000, b'{"a":' * 2000, b"[" * 600 + b"]" * 600),
    *(b"\\ud800", b"\\u0000", b"\\n", b"[{[]: 1}]", b"x" * 300, b"y" * 140_000, b"\x1b[31m"),
    *(b"<!DOCTYPE a>", b"&a;", b"&#0;", b"<a>" * 300, b"<?xml version='1.0' encoding='x'?>"),
)
ENCODINGS = ("utf-16", "utf-8-sig", "latin-1", "utf-32-le", "utf-7")


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes set, flipped, lost, cut, doubled and put in, lines doubled, or all encoded anew."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(0, 8)))
        match draw(st.integers(0, 7)):
            case 0:
                data[start:stop] = draw(st.binary(max_size=8))
            case 1 if start < len(data):
                data[start] ^= 1 << draw(st.integers(0, 7))
            case 2:
                del data[start:stop]
            case 3 if start > len(data) // 4:
                del data[start:]
            case 4:
                data[stop:stop] = data[start:stop]
            case 5:
                lines = bytes(data).splitlines(keepends=True) or [b"\n"]
                line = draw(st.sampled_from(lines))
                data[:] = b"".join((*lines, line))
            case 6 if draw(st.booleans()):
                text = bytes(data).decode("utf-8", "replace")
                data[:] = text.encode(draw(st.sampled_from(ENCODINGS)), "replace")
            case _:
                data[start:stop] = draw(st.sampled_from(TOKENS))
    return bytes(data)


def spoilt(*wholes: bytes) -> st.SearchStrategy[bytes]:
    """One of these as it is, damaged, or random bytes."""
    whole, spoiled = [st.just(one) for one in wholes], [damaged(one) for one in wholes]
    return st.one_of(*whole, *spoiled, *spoiled, st.binary(max_size=80))  # the first is tried first


TEXTS = st.text(
    st.characters(exclude_categories=()) | st.sampled_from('\0\n\r\x85\u2028\ufeff",;=|[]?-01'),
    max_size=12,
)
NUMBERS = st.one_of(
    st.integers(-2, 2),
    st.integers(),
    st.floats(),
    st.sampled_from([10**400, -(10**400), 10**4299, 2**63, 1e308]),
)
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, st.sampled_from(["", "?", "1", "0"]))
VALUES = st.recursive(
    PLAIN, lambda one: st.lists(one, max_size=3) | st.dictionaries(TEXTS, one, max_size=3)
)
