"""A service of a small run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs mlcrf[serve]")
pytest.importorskip("prometheus_client", reason="needs mlcrf[serve]")

from starlette.testclient import TestClient

from mlcrf.checkpoint import load_run
from mlcrf.choices import EngineName
from mlcrf.prediction import Tagger
from mlcrf.serving.monitoring import Limits
from mlcrf.serving.tagging_app import make_app
from tests.review.conftest import make_folder, small_run

__all__ = ["small_run"]

LIMITS = Limits(images=3, megabytes=1, batch=2, waiting=4)


@pytest.fixture(scope="session")
def tagger(small_run: Path) -> Tagger:
    return Tagger(load_run(small_run), engine=EngineName.TORCH)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = make_folder(tmp_path_factory.mktemp("photos"), ["a.png", "b.png", "c.png"])
    return sorted(folder.iterdir())


@pytest.fixture
def client(tagger: Tagger) -> Iterator[TestClient]:
    with TestClient(make_app(tagger.run, tagger, LIMITS)) as client:
        yield client
