"""Names of anyone's as one line of text."""

import os
from pathlib import Path

import pytest

from mlcrf.images import as_image
from mlcrf.reports.names import file_name, readable, shared_folder


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("sea", "sea"),
        ("Ölfarbe 海 👩‍🌾", "Ölfarbe 海 👩‍🌾"),
        ("two\nlines\t\x00", "two\\nlines\\t\\x00"),
        ("line\u2028break", "line\\u2028break"),
        ("gpj.\u202eexe", "gpj.\\u202eexe"),
        ("\ud800", "\\ud800"),
        ("<b>&amp;</b>", "<b>&amp;</b>"),
        ("a" * 80, "a" * 80),
        ("a" * 81, "a" * 79 + "…"),
    ],
)
def test_readable(name: str, shown: str) -> None:
    """Letters of any script stay, controls and turns of direction are shown as what they are."""
    assert readable(name) == shown
    readable(name).encode("utf-8")


def test_files_are_named_below_what_they_share() -> None:
    """Relative and absolute alike; odd bytes as escapes; of a long path the end."""
    odd = Path(os.fsdecode(b"/home/me/photos/b/\xff\n.jpg"))
    images = [as_image("/home/me/photos/a/1.jpg"), as_image(odd)]
    folder = shared_folder(images)
    assert [file_name(image, folder) for image in images] == ["a/1.jpg", "b/\\xff\\n.jpg"]
    assert file_name(as_image("x/1.jpg"), shared_folder([as_image("x/1.jpg")])) == "1.jpg"
    long = Path("/home") / ("d" * 200) / "end.jpg"
    assert file_name(as_image(long), "/home") == "…" + ("d" * 111) + "/end.jpg"
