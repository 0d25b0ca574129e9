"""Databases of both kinds, a small run, and a folder of photos for it."""

import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from mlcrf.backbones.registry import find_spec, make_backbone
from mlcrf.checkpoint import Run, save_run
from mlcrf.config import TrainSettings
from mlcrf.labels import LabelSpace
from mlcrf.model import LabelCrf

if TYPE_CHECKING:
    from starlette.types import ASGIApp

pytest.importorskip("sqlalchemy", reason="needs mlcrf[review]")
pytest.importorskip("starlette", reason="needs mlcrf[review]")

LABELS = ("sea", "sky", "beach", "indoor", "<b>bird</b>")


def new_request() -> str:
    return uuid.uuid4().hex


def make_page(review: Any) -> "ASGIApp":
    """The application that serves a review's page to who has the token `t0ken`."""
    from mlcrf.review.model_saving import ModelSaving
    from mlcrf.review.review_app import make_app
    from mlcrf.review.safety import Hosts
    from mlcrf.review.tag_writing import TagWriting

    saving = ModelSaving(review, None, find_spec("tiny"))
    writing = TagWriting(review)
    return make_app(review, writing, saving, token="t0ken", person="anna", hosts=Hosts(), port=8000)


def make_folder(folder: Path, names: list[str]) -> Path:
    """Pictures of random colour blocks, each different."""
    for at, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = np.random.default_rng(at).integers(0, 256, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((48, 36), Image.Resampling.NEAREST).save(path, "PNG")
    return folder


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody trained: sea, sky and beach attract each other, indoor excludes them."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    folder.mkdir()
    torch.manual_seed(0)
    backbone = make_backbone(find_spec("tiny"), seed=0)
    models = []
    for coupled in (True, False):
        model = LabelCrf(backbone.num_features, len(LABELS))
        with torch.no_grad():
            model.output.weight.normal_(0, 0.2)
            model.output.bias.copy_(torch.tensor([-1.5, -0.5, -2.0, 0.0, -1.0]))
            if coupled:
                strength = {(0, 1): 2.0, (0, 2): 2.5, (0, 3): -4.0, (1, 3): -3.0, (2, 3): -2.0}
                for at, (i, j) in enumerate(model.edges.tolist()):
                    model.pairwise[at] = strength.get((i, j), 0.0)
        models.append(model.eval())
    save_run(
        Run(
            path=folder,
            labels=LabelSpace(LABELS),
            settings=TrainSettings(backbone="tiny"),
            backbone_spec=find_spec("tiny"),
            data="drawn",
            crf=models[0],
            independent=models[1],
            backbone_weights=backbone.state_dict(),
        )
    )
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server of our own, on a free port, run by a user that is not root."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("no PostgreSQL server here; apt-get install postgresql")
    pytest.importorskip("psycopg", reason="needs psycopg")
    place = programs[-1].parent
    folder = Path(mkdtemp(prefix="mlcrf-postgres-"))  # pytest's own are for root alone
    options: dict[str, object] = {}
    if os.getuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        options = {"user": "postgres", "group": "postgres", "extra_groups": []}
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    def call(*words: object) -> None:
        subprocess.run(
            [place / str(words[0]), *map(str, words[1:])],
            check=True,
            capture_output=True,
            timeout=600,
            cwd=folder,
            **options,
        )

    data, log = folder / "data", folder / "log"
    call("initdb", "-D", data, "-U", "mlcrf", "-A", "trust", "-N", "--locale=C", "-E", "UTF8")
    settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    call("pg_ctl", "-D", data, "-l", log, "-w", "-o", settings, "start")
    try:
        yield f"postgresql://mlcrf@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tags.db'}"
    import psycopg

    server = request.getfixturevalue("postgres")
    name = f"review_{abs(hash(str(tmp_path)))}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.replace("/postgres", f"/{name}")
