"""The review as a web application: its paths, requests and replies."""

import asyncio
import re
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any

from jinja2 import Environment
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from mlcrf.errors import DatabaseError, DataError, MlcrfError
from mlcrf.hints import describe_fault
from mlcrf.review.acts import Act, AnswerAct, BulkAct, SavingAct, TagAct, WritingAct
from mlcrf.review.finding import Filter, Order, Part, State
from mlcrf.review.model_saving import ModelSaving
from mlcrf.review.photos import WIDTHS, PhotoCopies
from mlcrf.review.records import PhotoState
from mlcrf.review.replies import Replies, describe_reasons
from mlcrf.review.safety import Guard, Hosts
from mlcrf.review.session import Review
from mlcrf.review.tag_writing import Decided, TagWriting
from mlcrf.version import __version__

_PAGE = files("mlcrf.review") / "page"
_FILES = {
    "review.css": "text/css",
    "drawing.js": "text/javascript",
    "grid.js": "text/javascript",
    "progress.js": "text/javascript",
    "promise.js": "text/javascript",
    "review.js": "text/javascript",
    "save.js": "text/javascript",
    "select.js": "text/javascript",
    "server.js": "text/javascript",
    "tags.js": "text/javascript",
    "why.js": "text/javascript",
    "write.js": "text/javascript",
    "zoom.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_PHOTO_BYTES = 12  # of a photo's number in a request
_MOST_SAID = 400  # characters of a refusal
_WORKERS = 4  # threads; more would only wait for each other
_WHY = "/api/photos/{photo:photo}/why"
_LATER = {503: {"Retry-After": "2"}}


class _Number(Convertor[int]):
    """A photo's number in the database; Python refuses thousands of digits."""

    regex = "[0-9]{1,9}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("photo", _Number())


def make_app(
    review: Review,
    writing: TagWriting,
    saving: ModelSaving,
    *,
    token: str,
    person: str,
    hosts: Hosts,
    port: int,
) -> ASGIApp:
    """Make the application that serves the page and its data.

    Args:
        token: secret that requests must present.
        person: default name of the person who answers.
        port: part of the cookie's name, since browsers share cookies between the ports of a host.
    """
    pages = _Pages(review, writing, saving, person)
    paths: dict[str, tuple[str, Callable[[Request], Response]]] = {
        "/": ("GET", pages.page),
        "/health": ("GET", pages.health),
        "/static/{name}": ("GET", pages.static),
        "/api/progress": ("GET", pages.progress),
        "/api/photos": ("GET", pages.list_photos),
        "/api/photos/{photo:photo}": ("GET", pages.look),
        _WHY: ("GET", pages.why),
        "/api/photos/{photo:photo}/answer": ("POST", pages.answer),
        "/api/photos/{photo:photo}/accept": ("POST", pages.accept),
        "/api/tags": ("GET", pages.tags),
        "/api/tag": ("POST", pages.change_tag),
        "/api/answer": ("POST", pages.answer_many),
        "/api/decided": ("GET", pages.decided),
        "/api/written": ("GET", pages.written),
        "/api/write": ("POST", pages.write),
        "/api/saved": ("GET", pages.saved),
        "/api/save": ("POST", pages.save),
        "/api/undo": ("POST", pages.undo),
        "/api/redo": ("POST", pages.redo),
        "/photos/{photo:photo}/{size}.jpg": ("GET", pages.photo),
    }
    workers = _Workers(_WORKERS)
    apart = {"/health": _Workers(1), _WHY: _Workers(1)}  # no request waits for one of the others
    routes = [
        Route(path, _in_thread(endpoint, apart.get(path, workers)), methods=[method])
        for path, (method, endpoint) in paths.items()
    ]
    errors: Any = {
        HTTPException: lambda _, error: _refusal(error.status_code, str(error.detail)),
        DataError: lambda _, error: _refusal(404, str(error)),
        MlcrfError: lambda _, error: _refusal(422, str(error)),
        DatabaseError: lambda _, error: _refusal(503, str(error)),
        ValidationError: lambda _, error: _refusal(422, _first(error)),
    }
    app = Starlette(routes=routes, exception_handlers=errors)
    app.router.redirect_slashes = False  # only the exact paths exist
    return Guard(
        app,
        token=token,
        hosts=hosts,
        cookie=f"mlcrf-review-{port}",
        spare_bytes=_PHOTO_BYTES * len(review.photos),  # an act may name each photo
    )


class _Workers:
    """Threads for torch and the database, which would block the event loop.

    Each takes the next request only after the loop has taken its last reply, so that replies do not
    queue up in the loop before new requests.
    """

    def __init__(self, number: int) -> None:
        self._threads, self._turns = ThreadPoolExecutor(number), asyncio.Semaphore(number)

    async def run(self, endpoint: Callable[[Request], Response], request: Request) -> Response:
        async with self._turns:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, endpoint, request)


def _in_thread(endpoint: Callable[[Request], Response], workers: _Workers) -> Callable[..., Any]:
    async def run(request: Request) -> Response:
        request.state.body = await request.body()
        return await workers.run(endpoint, request)

    return run


class _Pages:
    def __init__(
        self, review: Review, writing: TagWriting, saving: ModelSaving, person: str
    ) -> None:
        self._review, self._writing, self._saving = review, writing, saving
        self._person = person
        self._start = secrets.token_hex(8)
        self._replies = Replies(review, self._start)
        self._copies = PhotoCopies(review.photos)
        template = (_PAGE / "page.html").read_text(encoding="utf-8")
        self._template = Environment(autoescape=True).from_string(template)

    def page(self, request: Request) -> Response:
        return HTMLResponse(
            self._template.render(
                tags=self._replies.tags(),
                tags_version=self._review.progress()["tags"],
                folders=self._review.folders(),
                person=self._person,
                has_suspects=len(self._review.suspects) > 0,
                out="" if self._saving.out is None else str(self._saving.out),
                promise=self._replies.promise(),
                costs="" if self._review.costs is None else self._review.costs.name,
                start=self._start,
                version=__version__,
            )
        )

    def health(self, request: Request) -> Response:
        try:
            self._review.database.ping()
        except DatabaseError as error:  # its message contains the address
            raise HTTPException(503, "the database cannot be read") from error
        return JSONResponse({"status": "ok", "version": __version__})

    def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _FILES:
            raise HTTPException(404, "no such file")
        return Response((_PAGE / name).read_bytes(), media_type=_FILES[name])

    def progress(self, request: Request) -> Response:
        return JSONResponse(self._replies.progress())

    def tags(self, request: Request) -> Response:
        return JSONResponse({"tags": self._replies.tags(), "progress": self._replies.progress()})

    def change_tag(self, request: Request) -> Response:
        body = TagAct.model_validate_json(request.state.body)
        self._review.change_tag(
            body.person, body.request, key=body.key, name=body.name, into=body.into
        )
        return self.tags(request)

    def list_photos(self, request: Request) -> Response:
        asked = request.query_params
        try:
            wanted = self._filter(asked)
            offset, limit = int(asked.get("offset", "0")), int(asked.get("limit", "60"))
            if offset < 0 or limit < 0:
                raise ValueError("out of range")
        except (ValueError, DataError) as error:
            raise HTTPException(422, f"no such list of photos: {error}") from error
        found = self._review.find(wanted)
        shown = self._replies.tiles(found[offset : offset + limit], wanted.label)
        return JSONResponse({"total": len(found)} | shown)

    def look(self, request: Request) -> Response:
        return self._shown(self._review.look(self._number(request)))

    def why(self, request: Request) -> Response:
        label = self._review.tag_number(request.query_params.get("label", ""))
        return JSONResponse(describe_reasons(self._review.explain(self._number(request), label)))

    def answer(self, request: Request) -> Response:
        body = AnswerAct.model_validate_json(request.state.body)
        values = {self._review.tag_number(body.label): body.value}
        written = self._review.answer(self._number(request), values, body.person, body.request)
        return self._shown(written)

    def answer_many(self, request: Request) -> Response:
        body = BulkAct.model_validate_json(request.state.body)
        numbers = [self._review.number(photo) for photo in body.photos]
        others = [self._review.number(photo) for photo in body.others]
        values = {self._review.tag_number(body.label): body.value}
        changed = self._review.answer_many(numbers, values, body.person, body.request, others)
        return JSONResponse(self._replies.tiles(changed))

    def decided(self, request: Request) -> Response:
        """Count what `write` would write."""
        asked = request.query_params
        try:
            text = asked.get("least")
            least = None if not text else float(text)
        except ValueError as error:
            raise HTTPException(422, f"least: {error}") from error
        decided = Decided.of_review(
            self._review,
            least,
            promised="promised" in asked,
            at_least_cost="at_least_cost" in asked,
        )
        return JSONResponse(decided.counts())

    def write(self, request: Request) -> Response:
        body = WritingAct.model_validate_json(request.state.body)
        self._writing.start(
            body.least, body.request, promised=body.promised, at_least_cost=body.at_least_cost
        )
        return self.written(request)

    def written(self, request: Request) -> Response:
        return JSONResponse(self._writing.status())

    def save(self, request: Request) -> Response:
        body = SavingAct.model_validate_json(request.state.body)
        self._saving.start(body.name.strip(), body.request, replace=body.replace)
        return self.saved(request)

    def saved(self, request: Request) -> Response:
        return JSONResponse(self._saving.status())

    def accept(self, request: Request) -> Response:
        body = Act.model_validate_json(request.state.body)
        return self._shown(self._review.accept(self._number(request), body.person, body.request))

    def undo(self, request: Request) -> Response:
        body = Act.model_validate_json(request.state.body)
        return self._changed(self._review.undo(body.person, body.request))

    def redo(self, request: Request) -> Response:
        body = Act.model_validate_json(request.state.body)
        return self._changed(self._review.redo(body.person, body.request))

    def photo(self, request: Request) -> Response:
        size = request.path_params["size"]
        if size not in WIDTHS:
            raise HTTPException(404, "no such size")
        content = self._copies.jpeg(self._number(request), size)
        lasting = {"Cache-Control": "private, max-age=3600"}
        return Response(content, media_type="image/jpeg", headers=lasting)

    def _filter(self, asked: Mapping[str, str]) -> Filter:
        label, like = asked.get("label"), asked.get("like")
        return Filter(
            label=self._review.tag_number(label) if label else None,
            part=Part(asked["part"]) if asked.get("part") else None,
            state=State(asked["state"]) if asked.get("state") else None,
            name=asked.get("name", ""),
            folder=asked.get("folder", ""),
            order=Order(asked.get("order") or Order.TEACHES),
            like=self._review.number(int(like)) if like else None,
        )

    def _number(self, request: Request) -> int:
        return self._review.number(request.path_params["photo"])

    def _changed(self, numbers: list[int]) -> Response:
        if not numbers:
            return JSONResponse({"photo": None})
        first = self._replies.photo(self._review.look(numbers[0]))
        return JSONResponse(self._replies.tiles(numbers) | {"photo": first})

    def _shown(self, look: PhotoState) -> Response:
        return JSONResponse(
            {"photo": self._replies.photo(look), "progress": self._replies.progress()}
        )


def _refusal(status: int, message: str) -> Response:
    # file names may contain bytes that are not UTF-8, and what was asked for may be long
    text = re.sub("[\ud800-\udfff]", "\ufffd", message)[:_MOST_SAID]
    return JSONResponse({"error": text}, status_code=status, headers=_LATER.get(status))


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'body'}: {describe_fault(first)}"
