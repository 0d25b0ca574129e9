"""Tags of sidecars: ours come and go, a person's and all other content stay."""

import random
from collections.abc import Callable

import pytest

from mlcrf.errors import SettingsError
from mlcrf.keywords.retagging import Author, Tag, own_keywords, require_taggable, retag
from mlcrf.keywords.xmp import MAX_BYTES, Packet, Property

AUTHOR = Author("some model", "c0ffee")
SUBJECT = Property("dc", "subject")
LEVELS = Property("lr", "hierarchicalSubject")
TAGS = Property("digiKam", "TagsList")

HEAD = """<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">"""
USERS = f"""<?xml version="1.0" encoding="UTF-8"?>
<!-- a note before -->
{HEAD}
  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:darktable="http://darktable.sf.net/" darktable:history_end="4" xmlns:other="urn:other">
   <dc:subject>
    <rdf:Bag>
     <rdf:li>Grandma's &lt;garden&gt;</rdf:li>
     <rdf:li>Sea</rdf:li>
    </rdf:Bag>
   </dc:subject>
   <other:box other:kept="yes" rdf:parseType="Resource"><other:x>1</other:x></other:box>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
""".encode()


def tag(name: str, *above: str, confirmed: bool = False) -> Tag:
    return Tag(name, ((*above, name),), confirmed)


def values(content: bytes | None) -> tuple[list[str], list[str], list[str]]:
    assert content is not None
    packet = Packet(content)
    return packet.values(SUBJECT), packet.values(LEVELS), packet.values(TAGS)


def test_a_new_sidecar_has_the_tags_three_times_and_goes_when_undone() -> None:
    """Flat, and below their parents, which are not repeated; the marks say what and who."""
    new = retag(None, [tag("people"), tag("child", "people"), tag("sky")], AUTHOR)
    assert values(new.content) == (
        ["people", "child", "sky"],
        ["people|child", "sky"],
        ["people/child", "sky"],
    )
    assert new.added == ("people", "child", "sky") and new.removed == ()
    assert b"some model" in (new.content or b"") and b"c0ffee" in (new.content or b"")
    assert retag(new.content, [], None).content is None
    assert retag(new.content, [], AUTHOR).content is None
    assert retag(None, [], AUTHOR).content is None


def test_a_users_sidecar_keeps_everything() -> None:
    """Comment, attributes, unknown namespaces, own tags; a tag that is there is not added."""
    new = retag(USERS, [tag("sea"), tag("sky")], AUTHOR)
    assert values(new.content) == (["Grandma's <garden>", "Sea", "sky"],) * 3
    assert new.added == ("sky",)
    for kept in (b"<!-- a note before -->", b'darktable:history_end="4"', b"<other:x>1</other:x>"):
        assert kept in (new.content or b"")
    back = retag(new.content, [], None)
    assert back.removed == ("sky",)
    assert back.content == USERS


def test_running_again_replaces_ours_only() -> None:
    """New tags in place of the old; the same ones leave the very same bytes."""
    first = retag(USERS, [tag("sky"), tag("tree")], AUTHOR).content
    same = retag(first, [tag("tree"), tag("sky")], AUTHOR)
    assert same.content is first and not same.added and not same.removed
    second = retag(first, [tag("tree"), tag("car")], Author("another", "beef"))
    assert values(second.content)[0] == ["Grandma's <garden>", "Sea", "tree", "car"]
    assert (second.added, second.removed) == (("car",), ("sky",))
    assert b"another" in (second.content or b"") and b"some model" not in (second.content or b"")
    assert retag(USERS, [], None).content is USERS
    assert retag(USERS, [], AUTHOR).content is USERS


def edited(content: bytes | None, edit: Callable[[Packet], None]) -> bytes:
    packet = Packet(content or b"")
    edit(packet)
    return packet.to_bytes()


def test_what_a_person_did_with_our_tags_counts() -> None:
    """Added beside ours, moved below another, or taken out: theirs from then on."""
    ours = retag(USERS, [tag("sky"), tag("tree"), tag("car")], AUTHOR).content
    double = edited(ours, lambda packet: packet.add(SUBJECT, ["sky"]))
    assert values(retag(double, [], None).content)[0] == ["Grandma's <garden>", "Sea", "sky"]
    moved = edited(ours, lambda packet: packet.add(LEVELS, ["Plants|Tree"]))
    assert values(retag(moved, [], None).content) == (
        ["Grandma's <garden>", "Sea", "tree"],
        ["Grandma's <garden>", "Sea", "tree", "Plants|Tree"],
        ["Grandma's <garden>", "Sea", "tree"],
    )
    refused = edited(ours, lambda packet: packet.remove(SUBJECT, ["car"]))
    for _ in range(2):
        refused = retag(refused, [tag("car"), tag("tree")], AUTHOR).content or b""
        assert values(refused) == (["Grandma's <garden>", "Sea", "tree"],) * 3
    forgotten = retag(refused, [], None).content
    assert b"mlcrf" not in (forgotten or b"")
    assert "car" in values(retag(forgotten, [tag("car")], AUTHOR).content)[0]


def test_levels_that_a_program_adds_to_the_flat_list_are_not_the_persons() -> None:
    """darktable writes every level of a keyword to dc:subject; those above ours go with ours."""
    ours = retag(USERS, [tag("sky", "AI"), tag("dog", "AI", "Animals")], AUTHOR).content
    flat = edited(ours, lambda packet: packet.add(SUBJECT, ["AI", "Animals"]))
    assert own_keywords(Packet(flat))[-2:] == ["Grandma's <garden>", "Sea"]
    assert values(retag(flat, [], None).content) == (["Grandma's <garden>", "Sea"], [], [])
    used = edited(flat, lambda packet: packet.add(LEVELS, ["Animals|Cat"]))
    left = values(retag(used, [], None).content)
    assert left[0] == ["Grandma's <garden>", "Sea", "Animals"]
    assert left[1] == ["Grandma's <garden>", "Sea", "Animals|Cat"]


def test_confirmed_tags_are_not_ours() -> None:
    """Written everywhere without a mark; one that was ours before becomes theirs."""
    first = retag(None, [tag("people"), tag("child", "people"), tag("sky")], AUTHOR).content
    said = [tag("people", confirmed=True), tag("child", "people"), tag("sky", confirmed=True)]
    second = retag(first, said, AUTHOR).content
    assert sorted(values(second)[0]) == ["child", "people", "sky"]
    left = retag(second, [], None).content
    assert values(left) == (["people", "sky"], ["people", "sky"], ["people", "sky"])
    assert b"mlcrf:" not in (left or b"")


def test_several_parents() -> None:
    """A path each; a name stands below all labels that it implies."""
    dog = Tag("dog", (("animal", "dog"), ("pet", "dog")))
    new = retag(None, [tag("animal"), tag("pet"), dog], AUTHOR)
    assert values(new.content)[1] == ["animal|dog", "pet|dog"]


@pytest.mark.parametrize(
    "properties",
    [
        'dc:subject="sea"/>',
        "><dc:subject>sea</dc:subject></rdf:Description>",
        "><dc:subject><rdf:Seq><rdf:li xml:lang='en'>sea</rdf:li></rdf:Seq></dc:subject>"
        "</rdf:Description>",
        "><dc:subject><rdf:Bag><rdf:li rdf:parseType='Resource'><rdf:value>sea</rdf:value>"
        "</rdf:li></rdf:Bag></dc:subject></rdf:Description>",
        "><dc:subject><rdf:Bag><rdf:li rdf:value='sea' dc:type='x'/></rdf:Bag></dc:subject>"
        "</rdf:Description>",
        "><dc:subject><rdf:Bag><rdf:li><rdf:Description rdf:value='sea' dc:type='x'/></rdf:li>"
        "</rdf:Bag></dc:subject></rdf:Description>",
        "/><rdf:Description xmlns:dc='http://purl.org/dc/elements/1.1/'>"
        "<dc:subject><rdf:Bag><rdf:li>sea</rdf:li></rdf:Bag></dc:subject></rdf:Description>",
        "><dc:subject><rdf:Alt><rdf:li>sea</rdf:li></rdf:Alt></dc:subject></rdf:Description>",
        "><dc:subject><rdf:Bag><rdf:_1>sea</rdf:_1></rdf:Bag></dc:subject></rdf:Description>",
        "><dc:subject rdf:nodeID='a'/></rdf:Description>"
        "<rdf:Bag rdf:nodeID='a'><rdf:li>sea</rdf:li></rdf:Bag>",
        "><dc:subject rdf:parseType='Resource'><rdf:_1>sea</rdf:_1></dc:subject></rdf:Description>",
        "><dc:subject rdf:parseType='Literal'>sea</dc:subject></rdf:Description>",
    ],
)
def test_every_form_of_rdf(properties: str) -> None:
    """Attribute, bare text, other lists, qualified values, later descriptions."""
    dc = "xmlns:dc='http://purl.org/dc/elements/1.1/'"
    raw = f"{HEAD}<rdf:Description {dc} {properties}</rdf:RDF></x:xmpmeta>".encode()
    new = retag(raw, [tag("sky"), tag("sea")], AUTHOR).content
    assert values(new) == (["sea", "sky"],) * 3
    assert retag(new, [], None).content == raw
    changed = edited(new, lambda packet: packet.add(SUBJECT, ["mine"]))
    left = values(retag(changed, [], None).content)
    assert left == (["sea", "mine"], [], [])


def test_a_sidecar_stays_small_enough_to_be_read_again() -> None:
    """The copy for undo is left out where the file would be too large with it."""
    packet = Packet.new()
    blob = random.Random(0).randbytes(2 * 2**20).hex()
    packet.add(Property("dc", "description", "Seq"), [blob, blob, blob, "x" * (3 * 2**20)])
    raw = packet.to_bytes()
    assert MAX_BYTES - 3 * 2**20 < len(raw) < MAX_BYTES
    new = retag(raw, [tag("sea")], AUTHOR).content
    assert new is not None and len(new) <= MAX_BYTES
    assert values(retag(new, [], None).content) == ([], [], [])


def test_a_separator_in_a_persons_keyword_makes_no_level() -> None:
    """In a new list another sign stands for it; after an edit, undo knows that it is the same."""
    packet = Packet.new()
    packet.add(SUBJECT, ["B/W", "f|8"])
    packet.add(LEVELS, ["Film|B/W"])
    raw = packet.to_bytes()
    new = retag(raw, [tag("sea")], AUTHOR).content
    assert values(new) == (["B/W", "f|8", "sea"], ["Film|B/W", "sea"], ["Film/B\\W", "f|8", "sea"])
    changed = edited(new, lambda packet: packet.set_text(Property("xmp", "Rating"), "2"))
    assert values(retag(changed, [], None).content) == (["B/W", "f|8"], ["Film|B/W"], [])
    flat = Packet.new()
    flat.add(SUBJECT, ["f|8"])
    assert values(retag(flat.to_bytes(), [tag("sea")], AUTHOR).content)[1] == ["f/8", "sea"]


def test_a_keyword_that_is_a_level_elsewhere_too() -> None:
    """On its own in a list with levels, it is one of the person's; not in the flat list alone."""
    packet = Packet.new()
    packet.add(SUBJECT, ["Orange", "Fruit", "Sea", "Places", "Rome"])
    packet.add(LEVELS, ["Orange", "Fruit|Orange", "Places", "Places|Rome"])
    new = retag(packet.to_bytes(), [tag("sky")], AUTHOR).content
    assert values(new)[2] == ["Orange", "Fruit/Orange", "Places", "Places/Rome", "Sea", "sky"]


def test_other_prefixes_and_encodings() -> None:
    """Names go by their namespace, not their prefix; UTF-16 becomes UTF-8; no Description."""
    raw = f"""{HEAD}<rdf:Description xmlns:dc="urn:not-dublin-core" xmlns:mlcrf="urn:not-ours"
      dc:subject="x" mlcrf:model="y" xmlns:s="http://purl.org/dc/elements/1.1/" s:subject="süß"/>
      </rdf:RDF></x:xmpmeta>"""
    new = retag(raw.encode("utf-16"), [tag("sky")], AUTHOR).content
    assert values(new)[0] == ["süß", "sky"]
    assert retag(new, [], None).content == raw.encode("utf-16")
    changed = edited(new, lambda packet: packet.add(LEVELS, ["mine"]))
    back = retag(changed, [], None).content or b""
    assert values(back)[0] == ["süß"]
    assert b'mlcrf:model="y"' in back and b"urn:mlcrf" not in back
    bare = f"{HEAD}</rdf:RDF></x:xmpmeta>".encode()
    assert values(retag(bare, [tag("sky")], AUTHOR).content)[0] == ["sky"]


ENTITIES = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "lol" * 10}">' for i in range(12))


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "not XML"),
        (b"\0" * 30, "not XML"),
        (USERS[:-40], "not XML"),
        (b"<a/>", "contains no rdf:RDF"),
        (f"<!DOCTYPE a [{ENTITIES}]><a>&e3;</a>".encode(), "."),
        (f"<!DOCTYPE a [{ENTITIES}]><a b='&e11;'/>".encode(), "amplification"),
        (b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><a>&x;</a>', "document type"),
        (b'<!DOCTYPE a SYSTEM "http://127.0.0.1:9/x.dtd"><a/>', "document type"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>'.encode("utf-16"), "document type"),
        (b"<a>" * 100_000, "depth"),
        (b" " * (MAX_BYTES + 1), "more than 16 MB"),
    ],
)
def test_damaged_and_hostile_sidecars(raw: bytes, says: str) -> None:
    """One line that says what, and nothing is expanded, fetched or changed."""
    with pytest.raises(ValueError, match=says) as caught:
        retag(raw, [tag("sky")], AUTHOR)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a/b", "a|b", "a\x01b", "a\ufffeb"])
def test_names_that_cannot_be_keywords(name: str) -> None:
    """Refused before the work, with what to do."""
    with pytest.raises(SettingsError, match="--rename"):
        require_taggable(["sky", name])


@pytest.mark.parametrize("name", ["<b>&amp;", "=1+1", "'\"", "日本", "a\u202eb", "]]>", "a,b"])
def test_odd_names_come_back(name: str) -> None:
    """Markup, quotes, other scripts."""
    require_taggable([name])
    assert values(retag(None, [tag(name)], AUTHOR).content) == ([name],) * 3
