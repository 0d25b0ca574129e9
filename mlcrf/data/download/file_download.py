"""Download a file: resumed where it stopped, limited in time and size."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn, TypeVar

import httpx

from mlcrf import atomic
from mlcrf.errors import DownloadError

_T = TypeVar("_T")
_LONGEST_TEXT_BYTES = 1 << 20
_GAIN_BYTES = 1 << 20
_SLOWEST_BYTES_PER_S = 100
_MAX_REDIRECTS = 5
_VALIDATORS = ("etag", "last-modified")
_ABSENT = (403, 404, 410)  # 403 is the reply of buckets without listing for a missing file
_PASSING = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class RetryPolicy:
    """Limits on retries of a failing server.

    Attributes:
        stall_s: an attempt fails after this time without a connection, or almost without data.
        attempts: successive failures without a megabyte of progress before giving up.
        first_wait_s: wait before the second attempt; doubled after each failure.
        longest_wait_s: maximum wait.
    """

    stall_s: float = 60.0
    attempts: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 30.0
    sleep: Callable[[float], None] = time.sleep


DEFAULT_RETRY_POLICY = RetryPolicy()


@dataclass(frozen=True)
class Part:
    """The part of a file received so far, NAME.part, and its version, NAME.part.json.

    Attributes:
        whole: path of the complete file.
    """

    whole: Path

    @property
    def path(self) -> Path:
        return self.whole.with_name(f"{self.whole.name}.part")

    @property
    def _note(self) -> Path:
        return self.whole.with_name(f"{self.whole.name}.part.json")

    def length(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def finish(self) -> None:
        """Rename a complete and verified part to the whole file."""
        with self.path.open("rb+") as stream:
            os.fsync(stream.fileno())
        self.path.replace(self.whole)
        self.forget()

    def save_version(self, version: dict[str, str]) -> None:
        atomic.write_text(self._note, json.dumps(version))

    def load_version(self, url: str) -> dict[str, str]:
        """Load the version of the part; empty if it cannot be continued."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            version = {key: str(note[key]) for key in ("url", "total", *_VALIDATORS)}
            same = version["url"] == url and int(version["total"]) >= self.length()
            return version if same and _validator(version) else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def fetch(
    url: str,
    part: Part,
    *,
    size: int | None,
    retries: RetryPolicy,
    check_space: Callable[[int, int], None],
    progress: Callable[[int, int], None],
) -> None:
    """Download the missing rest of a file into its part, with retries.

    Args:
        size: expected size in bytes, if known.
        check_space: called with the remaining and the total bytes before writing; raises if the
            disk is too small.
        progress: called with the received and the total bytes.

    Raises:
        DownloadError: the server fails for longer than `retries` allows, refuses, redirects to
            an unsafe URL, or has a file of another size.
    """
    part.path.parent.mkdir(parents=True, exist_ok=True)

    def attempt() -> None:
        version = part.load_version(url)
        have = part.length() if version else 0
        if have and have == int(version["total"]):
            return
        headers = {"Range": f"bytes={have}-", "If-Range": _validator(version)} if have else {}
        with _response(url, headers, retries) as response:
            if response.status_code not in (200, 206, 416):
                _refuse(response)
            if not have or not _continues(response, have, version):
                part.forget()
                have = 0
                if response.status_code != 200:
                    raise _PassingError("the file at the server is no longer the same")
                version = _version(response, url, size)
                part.save_version(version)
            total = int(version["total"])
            if size not in (None, total):
                part.forget()
                raise DownloadError(f"{url}: expected {size} bytes, the server has {total}")
            check_space(total - have, total)
            with part.path.open("ab") as stream:
                for chunk in _body(response, retries):
                    have += len(chunk)
                    if have > total:
                        break
                    stream.write(chunk)
                    progress(have, total)
        if have > total:
            part.forget()
            raise DownloadError(f"{url}: the server sends more than the {total} bytes expected")
        if have < total:
            raise _PassingError(f"the connection ended after {have} of {total} bytes")

    _persist(url, attempt, part.length, retries)


def fetch_text(url: str, retries: RetryPolicy) -> str:
    """Download a small text file; empty if it does not exist.

    Raises:
        DownloadError: see `fetch`; also if it is longer than a megabyte.
    """

    def attempt() -> str:
        content = b""
        with _response(url, {}, retries) as response:
            if response.status_code in _ABSENT:
                return ""
            if response.status_code != 200:
                _refuse(response)
            for chunk in _body(response, retries):
                content += chunk
                if len(content) > _LONGEST_TEXT_BYTES:
                    raise DownloadError(f"{url}: is longer than any list of checksums")
        return content.decode("utf-8", errors="replace")

    return _persist(url, attempt, lambda: 0, retries)


def checked_url(url: str, origin: httpx.URL | None = None) -> httpx.URL:
    """Parse a URL, or a redirect of `origin`, and refuse unsafe URLs."""
    try:
        place = origin.join(url) if origin else httpx.URL(url)
    except httpx.InvalidURL as error:
        raise DownloadError(f"{url}: not a URL: {error}") from error
    secure = place.scheme == "https" and place.host
    local = place.scheme == "http" and _is_loopback(place.host)
    if secure or (local and (origin is None or origin.scheme == "http")):
        return place
    whence = f", to which {origin} redirects" if origin else ""
    raise DownloadError(f"{place}{whence}: only https: is allowed, or http: on this computer")


class _PassingError(Exception):
    """A failure that may not occur at the next attempt."""


def _persist(
    url: str, attempt: Callable[[], _T], gained: Callable[[], int], retries: RetryPolicy
) -> _T:
    """Retry after temporary failures; progress on disk resets their number."""
    best, failures = gained(), 0
    while True:
        try:
            return attempt()
        except (_PassingError, httpx.TransportError) as error:
            failures += 1
            if gained() >= best + _GAIN_BYTES:
                best, failures = gained(), 1
            if failures >= retries.attempts:
                reason = str(error) or type(error).__name__
                raise DownloadError(
                    f"{url}: gave up after {failures} failures in a row: {reason}. "
                    "Run the same command again to continue."
                ) from error
        wait_s = retries.first_wait_s * 2 ** (failures - 1)
        retries.sleep(min(wait_s, retries.longest_wait_s))


def _version(response: httpx.Response, url: str, size: int | None) -> dict[str, str]:
    """Return the validators and the size of a remote file."""
    total = response.headers.get("content-length", size)
    if total is None:
        raise DownloadError(f"{url}: the server does not state the size of the file. Try a mirror.")
    headers = {key: response.headers.get(key, "") for key in _VALIDATORS}
    return {"url": url, "total": str(total), **headers}


def _validator(version: dict[str, str]) -> str:
    # A weak ETag does not guarantee the same bytes (RFC 9110, section 13.1.5).
    etag = "" if version["etag"].startswith("W/") else version["etag"]
    sendable = (text for text in (etag, version["last-modified"]) if text and text.isascii())
    return next(sendable, "")


def _continues(response: httpx.Response, have: int, version: dict[str, str]) -> bool:
    total = int(version["total"])
    span = f"bytes {have}-{total - 1}/{total}"
    return (
        response.status_code == 206
        and response.headers.get("content-range") == span
        and all(response.headers.get(key, version[key]) == version[key] for key in _VALIDATORS)
    )


@contextmanager
def _response(url: str, headers: dict[str, str], retries: RetryPolicy) -> Iterator[httpx.Response]:
    """Request a URL and follow redirects to URLs that `checked_url` allows."""
    place = checked_url(url)
    headers = {"Accept-Encoding": "identity", "User-Agent": "mlcrf", **headers}
    with ExitStack() as stack:
        for _ in range(_MAX_REDIRECTS + 1):
            # Local servers are not requested through a proxy.
            trust = not _is_loopback(place.host)
            client = httpx.Client(timeout=retries.stall_s, trust_env=trust)
            stack.enter_context(client)
            response = stack.enter_context(client.stream("GET", place, headers=headers))
            if not response.has_redirect_location:
                yield response
                return
            place = checked_url(response.headers["location"], place)
        raise DownloadError(f"{url}: more than {_MAX_REDIRECTS} redirects. Try a mirror.")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _body(response: httpx.Response, retries: RetryPolicy) -> Iterator[bytes]:
    """Yield the bytes of a response; raise if they arrive too slowly."""
    since, got = time.monotonic(), 0
    for chunk in response.iter_raw():
        yield chunk
        got += len(chunk)
        passed_s = time.monotonic() - since
        if passed_s > retries.stall_s:
            if got < _SLOWEST_BYTES_PER_S * passed_s:
                raise _PassingError(f"the server sent {got} bytes in {passed_s:.0f} seconds")
            since, got = time.monotonic(), 0


def _refuse(response: httpx.Response) -> NoReturn:
    answer = f"the server answered {response.status_code} {response.reason_phrase}".rstrip()
    if response.status_code in _PASSING:
        raise _PassingError(answer)
    raise DownloadError(f"{response.url}: {answer}. Check the address, or try a mirror.")
