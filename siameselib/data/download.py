"""Labeled Faces in the Wild from public mirrors: resumable, verified, whole or not at all.

The site that published LFW is gone; its files live on at the mirrors below. Whatever a mirror sends
is believed only if its checksum is the published one.
"""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from siameselib import _check
from siameselib.data.progress import bar

_UMASS = "http://vis-www.cs.umass.edu/lfw/"
_WAYBACK = "https://web.archive.org/web/2023id_/http://vis-www.cs.umass.edu/lfw/"
_FIGSHARE = "https://ndownloader.figshare.com/files/"
_GITHUB = (
    "https://raw.githubusercontent.com/charlesreid1/in-your-face/"
    "00d3f2e4bdcc3ef8a851e5e133cde29d2f574f15/data/"
)
_TIMEOUT = 20.0  # seconds of silence
_TRIES = 5  # of a connection that broke off but had brought something
_BLOCK = 1 << 18


class RemoteFile(NamedTuple):
    """A file to fetch: its name, its published checksum, its size if known, and where it is."""

    name: str
    checksum: str
    size: int | None
    urls: tuple[str, ...]


ARCHIVES = {
    "deepfunneled": RemoteFile(
        "lfw-deepfunneled.tgz",
        "md5:68331da3eb755a505a502b5aacb3c201",
        None,
        (_UMASS + "lfw-deepfunneled.tgz", _WAYBACK + "lfw-deepfunneled.tgz"),
    ),
    "funneled": RemoteFile(
        "lfw-funneled.tgz",
        "sha256:b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a",
        None,
        (_FIGSHARE + "5976015", _UMASS + "lfw-funneled.tgz", _WAYBACK + "lfw-funneled.tgz"),
    ),
}
PROTOCOL_FILES = tuple(
    RemoteFile(name, f"sha256:{digest}", size, (*first, _UMASS + name, _WAYBACK + name))
    for name, size, digest, first in (
        (
            "pairsDevTrain.txt",
            56579,
            "1d454dada7dfeca0e7eab6f65dc4e97a6312d44cf142207be28d688be92aabfa",
            (_FIGSHARE + "5976012",),
        ),
        (
            "pairsDevTest.txt",
            26002,
            "7cb06600ea8b2814ac26e946201cdb304296262aad67d046a16a7ec85d0ff87c",
            (_FIGSHARE + "5976009",),
        ),
        (
            "pairs.txt",
            155335,
            "ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592",
            (_FIGSHARE + "5976006",),
        ),
        (
            "peopleDevTrain.txt",
            66403,
            "2e58df13ba4cc143189336e001cc2c195f1dfa5b29a6475c02857be353c2a2fa",
            (_GITHUB + "peopleDevTrain.txt",),
        ),
        (
            "peopleDevTest.txt",
            28334,
            "c3ed1f90499473401542101a56c14c1d82396bb8218c67a356d7460601047555",
            (_GITHUB + "peopleDevTest.txt",),
        ),
        (
            "people.txt",
            94770,
            "bc8fa2b7f25c895cf7efb6de4f4fc27ca8b8d1cfa63350ad8b96eae2b198d365",
            (),
        ),
        (
            "lfw-names.txt",
            94727,
            "403cd39411ee297f99f69241959bd8f0496b44377711913a76ccdd8562874164",
            (),
        ),
    )
)


class _MirrorError(Exception):
    """Why a mirror did not deliver."""


class _Unreachable(_MirrorError):
    """The mirror's host does not answer: the other files there need not be tried."""


def download_lfw(
    cache_dir: str | os.PathLike[str],
    *,
    images: str = "deepfunneled",
    progress: bool = True,
) -> Path:
    """Fetch LFW's images and protocol files, as far as they are not there yet.

    A broken transfer goes on where it stopped, also in a later call. What lies in ``cache_dir``
    under its final name is taken as it is: put a file there yourself and it is not fetched.

    Args:
        cache_dir: folder for the files; made if missing.
        images: ``"deepfunneled"`` (NIPS 2012, about 110 MB) or ``"funneled"`` (ICCV 2007, about
            230 MB).
        progress: draw progress bars, if standard error is a terminal.

    Returns:
        The archive of the images, for `open_lfw`.

    Raises:
        ConnectionError: If a file cannot be had from any mirror. All files are tried first; the
            message says what is missing, where it can be found and where to put it.
        OSError: If a file cannot be written; what was received is kept for the next call.

    Example:
        >>> source = open_lfw(download_lfw("cache"))  # doctest: +SKIP
    """
    _check.choice("download_lfw", "images", images, tuple(ARCHIVES))
    folder = _check.path("download_lfw", "cache_dir", cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    silent: dict[str, str] = {}
    failed: dict[str, list[str]] = {}
    for remote in (*PROTOCOL_FILES, ARCHIVES[images]):
        reasons = [] if _present(folder, remote) else _fetch(folder, remote, silent, progress)
        if not _present(folder, remote):
            failed[remote.name] = reasons
    if failed:
        raise ConnectionError(_by_hand(folder, failed, silent))
    return _present(folder, ARCHIVES[images]) or folder


def _present(folder: Path, remote: RemoteFile) -> Path | None:
    """The file, or for an archive its unpacked or repacked forms."""
    stem = remote.name.removesuffix(".tgz")
    forms = [remote.name]
    if stem != remote.name:
        forms += [stem, stem.replace("lfw-f", "lfw_f"), f"{stem}.tar", f"{stem}.tar.gz"]
    return next((folder / form for form in forms if (folder / form).exists()), None)


def _fetch(folder: Path, remote: RemoteFile, silent: dict[str, str], progress: bool) -> list[str]:
    """Try the mirrors in turn; what went wrong with those whose host answers."""
    reasons = []
    part = folder / f"{remote.name}.part"
    for url in remote.urls:
        host = urlsplit(url).netloc
        if host in silent:
            continue
        try:
            resumed = part.exists()
            _transfer(url, part, remote, progress)
            if not _intact(part, remote) and resumed:
                part.unlink()
                _transfer(url, part, remote, progress)
            if not _intact(part, remote):
                part.unlink()
                raise _MirrorError(f"not the published file ({remote.checksum} expected)")
        except _Unreachable as error:
            silent[host] = str(error)
        except _MirrorError as error:
            reasons.append(f"{url}: {error}")
        else:
            part.replace(folder / remote.name)
            break
    return reasons


def _transfer(url: str, part: Path, remote: RemoteFile, progress: bool) -> None:
    """Append to the part file until it is as long as the server says."""
    for _ in range(_TRIES):
        have = part.stat().st_size if part.exists() else 0
        response = _connect(url, have)
        if response is None:
            return
        with response:
            start = have if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
            length = response.headers.get("Content-Length")
            total = start + int(length) if length else remote.size
            if remote.size and total != remote.size:
                raise _MirrorError(f"{total:,} bytes instead of {remote.size:,}")
            with (
                part.open("ab" if start else "wb") as file,
                bar(total, progress, remote.name, "B", start) as shown,
            ):
                for block in _blocks(response):
                    file.write(block)
                    shown.update(len(block))
        received = part.stat().st_size
        if total is None or received >= total:
            return
        if received == start:
            break
    raise _MirrorError(f"broke off after {received:,} of {total:,} bytes")


def _connect(url: str, have: int) -> http.client.HTTPResponse | None:
    """Ask for a file from a byte on; None if it has no such byte: all of it is here."""
    headers = {"User-Agent": "siameselib"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(url, headers=headers)
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        raise _MirrorError(f"HTTP {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _Unreachable(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _MirrorError(str(error) or type(error).__name__) from error
    return response


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """What arrives, until the end or until the connection breaks."""
    while True:
        try:
            block = response.read(_BLOCK)
        except http.client.IncompleteRead as error:
            block = error.partial
        except (OSError, http.client.HTTPException):
            return  # the caller compares lengths and takes up again
        if not block:
            return
        yield block


def _intact(part: Path, remote: RemoteFile) -> bool:
    algorithm, _, published = remote.checksum.partition(":")
    with part.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest() == published


def _by_hand(folder: Path, failed: dict[str, list[str]], silent: dict[str, str]) -> str:
    reasons = [f"{host} cannot be reached: {why}" for host, why in silent.items()]
    reasons += [reason for each in failed.values() for reason in each]
    return "\n  ".join((f"download_lfw: no mirror delivered {', '.join(failed)}", *reasons)) + (
        f"\nFetch them by hand (from {_UMASS}, its copy {_WAYBACK}, a colleague) and put them into "
        f"{folder.resolve()}; images may also be unpacked or a .tar. Where they lie already, give "
        "that folder as --data. The trainer's --data synthetic needs no photos."
    )
