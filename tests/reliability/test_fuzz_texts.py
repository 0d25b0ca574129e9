"""Whatever a setting, an option or a sidecar says, it is taken, or refused in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlcrf.config import TrainSettings, make_settings
from mlcrf.keywords.retagging import Author, Tag, require_taggable, retag
from mlcrf.keywords.xmp import Packet, Property
from mlcrf.labels import LabelSpace
from mlcrf.prediction.known import read_known
from tests.keywords.pictures import xmp_of
from tests.reliability.fuzzing import LABEL_SPACE, RULES, TEXTS, VALUES, Outcomes, fuzz, spoilt

pytestmark = pytest.mark.timeout(0)
FIELDS = st.sampled_from(sorted(TrainSettings.model_fields))


def test_settings(tmp_path: Path) -> None:
    """`--set`, a file of settings and decoders: any name with any value; what is taken is saved."""
    outcomes, path = Outcomes(), tmp_path / "settings.json"

    @fuzz(6_000, 60)
    @given(name=FIELDS | TEXTS, value=VALUES | st.lists(st.floats(), max_size=3), text=TEXTS)
    @example(name="seed", value=3, text="1")
    @example(name="\x1e", value=1, text="a\nb")
    @example(name="backbone", value="\ud800", text="\udcff")
    def check(name: str, value: Any, text: str) -> None:
        path.write_text(json.dumps({name: value}))
        in_file = outcomes.attempt(lambda: make_settings(path), path)
        for override in (f"{name}={json.dumps(value)}", f"{name}={text}", text):
            given = outcomes.attempt(lambda one=override: make_settings(None, (one,)))
            if given is not None:
                path.write_text(given.model_dump_json())
                assert make_settings(path) == given
                if override.endswith(json.dumps(value)) and in_file is not None:
                    assert in_file == given

    check()
    outcomes.require_both()


def test_given() -> None:
    """`--given` is understood, or refused in a line that quotes it."""
    outcomes = Outcomes()
    parts = st.tuples(
        st.sampled_from([*LABEL_SPACE, "dog", ""]) | TEXTS, st.sampled_from("01") | TEXTS
    )

    @fuzz(6_000, 150)
    @given(text=st.lists(parts.map("=".join), max_size=3).map(",".join) | TEXTS)
    @example(text="sea\n=2")
    @example(text="sea=1,\nsky=0")
    def check(text: str) -> None:
        known = outcomes.attempt(lambda: read_known(LABEL_SPACE, RULES, given=text))
        if known is not None:
            told = {one.partition("=")[0].strip() for one in text.split(",") if one}
            assert {LABEL_SPACE.names[at] for at in np.flatnonzero(known.everywhere >= 0)} == told

    check()
    outcomes.require_both()


def test_database_urls() -> None:
    """`--db` is understood, or refused in one line without what may be a password."""
    pytest.importorskip("sqlalchemy")
    from mlcrf.review.connections import parse_url

    outcomes = Outcomes()
    starts = st.sampled_from(
        ["", "sqlite:///", "sqlite://", "postgresql://", "postgresql://a:b@c:", "x://"]
    )

    @fuzz(6_000, 60)
    @given(start=starts, text=TEXTS)
    def check(start: str, text: str) -> None:
        outcomes.attempt(lambda: parse_url(start + " ".join(text.split())))

    check()
    outcomes.require_both()


SUBJECT = Property("dc", "subject")
TAGS = [Tag("sea", (("water", "sea"),)), Tag("sky", (("sky",),), confirmed=True)]
AUTHOR = Author("a model", "c0ffee")


def test_damaged_sidecars() -> None:
    """Ours and others' are given tags, which holds when repeated, or refused in one line."""
    outcomes = Outcomes()
    ours = retag(xmp_of("sun", "Sea"), TAGS, AUTHOR).content
    assert ours is not None

    @fuzz(6_000, 60)
    @given(raw=spoilt(ours, xmp_of("sun"), xmp_of("a", "b").replace(b"<rdf:Bag>", b"<rdf:Seq>")))
    def check(raw: bytes) -> None:
        try:
            once = retag(raw, TAGS, AUTHOR).content
        except ValueError as error:
            assert len(str(error).splitlines()) == 1
            outcomes["refused"] += 1
            return
        outcomes["taken"] += 1
        assert once is not None
        assert retag(once, TAGS, AUTHOR).content == once
        without = retag(once, (), None).content
        assert without is None or Packet(without).values(Property("mlcrf", "addedSubject")) == []

    check()
    outcomes.require_both()


@fuzz(6_000, 60)
@given(name=TEXTS.filter(lambda name: name.strip() == name != ""))
def test_names_for_sidecars(name: str) -> None:
    """A label that is not refused for XMP comes back out of a sidecar as it is."""
    outcomes = Outcomes()
    outcomes.attempt(lambda: require_taggable(LabelSpace((name,))))
    if outcomes["taken"]:
        content = retag(None, [Tag(name, ((name,),))], AUTHOR).content
        assert content is not None
        assert Packet(content).values(SUBJECT) == [name]
