"""Which sidecar belongs to which photo."""

from pathlib import Path

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
