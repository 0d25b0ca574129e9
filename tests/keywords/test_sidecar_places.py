"""Which sidecar belongs to which photo."""

from pathlib import Path

from mlcrf.choices import SidecarName
from mlcrf.images import as_image
from mlcrf.keywords.sidecar_places import PhotoPlaces


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_existing_sidecars_of_both_conventions(tmp_path: Path) -> None:
    """The full name wins; `photo.xmp` serves if nothing else is called so; a new one is full."""
    touch(tmp_path, "a.jpg", "b.jpg", "b.xmp", "c.jpg", "c.xmp", "c.jpg.xmp", "d.jpg", "d.XMP")
    places = PhotoPlaces()
    found = {name: places.sidecar(as_image(tmp_path / f"{name}.jpg")).name for name in "abcd"}
    assert found == {"a": "a.jpg.xmp", "b": "b.xmp", "c": "c.jpg.xmp", "d": "d.XMP"}
    assert places.existing_sidecar(as_image(tmp_path / "a.jpg")) is None
    assert places.tag_file(as_image(tmp_path / "a.jpg")).name == "a.txt"


def test_a_shared_sidecar_is_nobodys(tmp_path: Path) -> None:
    """Beside a raw file or another picture, `photo.xmp` may be theirs; its own text is no rival."""
    touch(tmp_path, "a.jpg", "a.CR2", "a.xmp", "b.jpg", "b.png", "b.xmp", "c.jpg", "c.txt", "c.xmp")
    touch(tmp_path, "d.jpg", "d.jpg.png", "d.jpg.xmp")
    places = PhotoPlaces()
    assert places.sidecar(as_image(tmp_path / "a.jpg")).name == "a.jpg.xmp"
    assert places.sidecar(as_image(tmp_path / "b.jpg")).name == "b.jpg.xmp"
    assert places.sidecar(as_image(tmp_path / "b.png")).name == "b.png.xmp"
    assert places.sidecar(as_image(tmp_path / "c.jpg")).name == "c.xmp"
    assert places.sidecar(as_image(tmp_path / "d.jpg")).name == "d.jpg.xmp"
    assert places.sidecar(as_image(tmp_path / "d.jpg.png")).name == "d.jpg.png.xmp"
    assert list(places.rivals(as_image(tmp_path / "b.jpg"))) == ["b.png"]


def test_only_images_and_videos_have_sidecars(tmp_path: Path) -> None:
    """Edits, records, copies and voice notes beside a photo are no rivals."""
    touch(
        tmp_path, "a.jpg", "a.xmp", "a.AAE", "a.json", "a.jpg_original", "a.wav", "a.THM", "a.pp3"
    )
    touch(tmp_path, "b.jpg", "b.MOV", "b.xmp", "c.jpg", "c.psd", "c.xmp")
    (tmp_path / "loop").symlink_to("loop")
    places = PhotoPlaces()
    found = [places.sidecar(as_image(tmp_path / f"{name}.jpg")).name for name in "abc"]
    assert found == ["a.xmp", "b.jpg.xmp", "c.jpg.xmp"]


def sidecar_for(suffix: str) -> bytes:
    return f"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
      xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description
      xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" photoshop:SidecarForExtension="{suffix}"
      /></rdf:RDF></x:xmpmeta>""".encode()


def test_a_sidecar_that_names_its_kind(tmp_path: Path) -> None:
    """That of a raw file is not the JPEG's; that of the JPEG is, beside a raw file too."""
    touch(tmp_path, "a.jpg", "b.jpeg", "b.CR2", "c.jpg")
    (tmp_path / "a.xmp").write_bytes(sidecar_for("CR2"))
    (tmp_path / "b.xmp").write_bytes(sidecar_for("JPG"))
    (tmp_path / "c.xmp").write_bytes(b"damaged")
    places = PhotoPlaces()
    assert places.sidecar(as_image(tmp_path / "a.jpg")).name == "a.jpg.xmp"
    assert places.existing_sidecar(as_image(tmp_path / "a.jpg")) is None
    assert places.sidecar(as_image(tmp_path / "b.jpeg")).name == "b.xmp"
    assert places.sidecar(as_image(tmp_path / "b.CR2")).name == "b.CR2.xmp"
    assert places.sidecar(as_image(tmp_path / "c.jpg")).name == "c.xmp"


def test_new_sidecars_named_by_the_stem(tmp_path: Path) -> None:
    """Only where the name can belong to one file."""
    touch(tmp_path, "a.jpg", "b.jpg", "b.CR2", "c.jpg", "d.jpg", "d.jpg.xmp")
    (tmp_path / "c.xmp").write_bytes(sidecar_for("CR2"))
    places = PhotoPlaces(new_name=SidecarName.STEM)
    found = [places.sidecar(as_image(tmp_path / f"{name}.jpg")).name for name in "abcd"]
    assert found == ["a.xmp", "b.jpg.xmp", "c.jpg.xmp", "d.jpg.xmp"]


def test_a_parallel_tree(tmp_path: Path) -> None:
    """Below the folder that was named, or the deepest that holds all; only there is looked."""
    touch(tmp_path, "in/x/a.jpg", "in/y/b.jpg", "in/x/a.jpg.xmp")
    out = tmp_path / "out"
    one = PhotoPlaces(out, [tmp_path / "in"])
    assert one.sidecar(as_image(tmp_path / "in/x/a.jpg")) == out / "x/a.jpg.xmp"
    assert one.existing_sidecar(as_image(tmp_path / "in/x/a.jpg")) is None
    touch(out, "x/a.xmp")
    assert one.sidecar(as_image(tmp_path / "in/x/../x/a.jpg")) == out / "x/a.xmp"
    two = PhotoPlaces(out, [tmp_path / "in/x", tmp_path / "in/y/b.jpg"])
    assert two.tag_file(as_image(tmp_path / "in/y/b.jpg")) == out / "y/b.txt"
