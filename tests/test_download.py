"""The downloader against a server on this machine: interrupted, resumed, corrupted, absent."""

import errno
import hashlib
import http.server
import shutil
import socket
import threading
from dataclasses import dataclass, field

import pytest

from siameselib.data import View1, View2, open_lfw
from siameselib.data import download_lfw as public
from siameselib.data.download import ARCHIVES, PROTOCOL_FILES, RemoteFile, download_lfw

TEXTS = ("pairs.txt", "people.txt", "peopleDevTest.txt")


@dataclass
class Mirror:
    """What the server has, how it fails, and what it was asked."""

    files: dict[str, bytes]
    url: str = ""
    breaks_after: list[int] = field(default_factory=list)  # bytes sent per request, then cut
    ranges: bool = True
    corrupt: bool = False
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def asked_for(self, name):
        return [ranged for path, ranged in self.asked if path.endswith(name)]


@pytest.fixture
def mirror(small_lfw):
    files = {name: (small_lfw / "tgz" / name).read_bytes() for name in TEXTS}
    files["lfw-deepfunneled.tgz"] = (small_lfw / "tgz" / "lfw-deepfunneled.tgz").read_bytes()
    served = Mirror(files)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.rpartition("/")[2]
            served.asked.append((self.path, self.headers.get("Range")))
            if name not in served.files:
                self.send_error(404)
                return
            data, start = served.files[name], 0
            if served.ranges and (wanted := self.headers.get("Range")):
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(data):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            body = data[start:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if served.corrupt:
                body = bytes(len(body))
            if name.endswith(".tgz") and served.breaks_after:
                body = body[: served.breaks_after.pop(0)]
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.url = f"http://127.0.0.1:{server.server_port}/"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        server.shutdown()
        thread.join()


def serve_from(monkeypatch, mirror, *urls):
    """Let the downloader know only these mirrors, with the true checksums."""

    def remote(name, algorithm, size=None):
        digest = hashlib.new(algorithm, mirror.files[name]).hexdigest()
        return RemoteFile(name, f"{algorithm}:{digest}", size, tuple(url + name for url in urls))

    texts = tuple(remote(name, "sha256", len(mirror.files[name])) for name in TEXTS)
    archives = {"deepfunneled": remote("lfw-deepfunneled.tgz", "md5")}
    monkeypatch.setattr("siameselib.data.download.PROTOCOL_FILES", texts)
    monkeypatch.setattr("siameselib.data.download.ARCHIVES", archives)


@pytest.fixture
def here(monkeypatch, mirror):
    serve_from(monkeypatch, mirror, mirror.url)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.usefixtures("here")
def test_download(mirror, small_lfw, tmp_path):
    archive = download_lfw(tmp_path / "new" / "cache")
    assert archive == tmp_path / "new" / "cache" / "lfw-deepfunneled.tgz"
    assert contents(archive.parent) == mirror.files
    source = open_lfw(archive)
    assert source.fingerprint == open_lfw(small_lfw / "images").fingerprint
    assert source.protocol_dir == archive.parent
    assert len(View2(source.protocol_dir)) == 2


@pytest.mark.usefixtures("here")
def test_what_is_there_is_not_fetched_nor_checked(mirror, tmp_path):
    for name in (*TEXTS, "lfw-deepfunneled.tgz"):
        (tmp_path / name).write_bytes(b"mine")
    assert download_lfw(tmp_path) == tmp_path / "lfw-deepfunneled.tgz"
    assert mirror.asked == []


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("mine", ["images", "tar"])
def test_unpacked_or_repacked_images_count(mirror, small_lfw, tmp_path, mine):
    shutil.copytree(small_lfw / mine, tmp_path / "cache")
    found = download_lfw(tmp_path / "cache")
    assert found.name == ("lfw-deepfunneled" if mine == "images" else "lfw-deepfunneled.tar")
    assert mirror.asked == []
    assert len(open_lfw(found).names) == 24


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_taken_up_again(mirror, tmp_path, ranges):
    mirror.ranges = ranges
    mirror.breaks_after = [1000, 50_000]
    download_lfw(tmp_path)
    assert contents(tmp_path) == mirror.files
    asked = mirror.asked_for("tgz")
    assert asked == [None, "bytes=1000-", "bytes=51000-" if ranges else "bytes=50000-"]


@pytest.mark.usefixtures("here")
def test_a_later_call_resumes(mirror, tmp_path):
    mirror.breaks_after = [3000, 0]
    with pytest.raises(ConnectionError, match=r"broke off after 3,000 of [\d,]+ bytes"):
        download_lfw(tmp_path)
    assert (tmp_path / "lfw-deepfunneled.tgz.part").stat().st_size == 3000
    mirror.asked.clear()
    download_lfw(tmp_path)
    assert contents(tmp_path) == mirror.files
    assert mirror.asked == [("/lfw-deepfunneled.tgz", "bytes=3000-")]


@pytest.mark.usefixtures("here")
def test_a_part_that_is_whole_already(mirror, tmp_path):
    (tmp_path / "pairs.txt.part").write_bytes(mirror.files["pairs.txt"])
    download_lfw(tmp_path)
    assert contents(tmp_path) == mirror.files


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("extra", [b"", b"x" * 10**6])
def test_a_damaged_part_is_fetched_anew(mirror, tmp_path, extra):
    (tmp_path / "lfw-deepfunneled.tgz.part").write_bytes(b"wrong" + extra)
    download_lfw(tmp_path)
    assert contents(tmp_path) == mirror.files


@pytest.mark.usefixtures("here")
def test_corruption_is_noticed(mirror, tmp_path):
    mirror.corrupt = True
    with pytest.raises(ConnectionError, match=r"not the published file \(sha256:\w{64} expected"):
        download_lfw(tmp_path)
    assert contents(tmp_path) == {}


@pytest.mark.usefixtures("here")
def test_a_wrong_size_is_noticed(mirror, tmp_path):
    mirror.files["pairs.txt"] += b"more"
    with pytest.raises(ConnectionError, match=r"[\d,]+ bytes instead of [\d,]+"):
        download_lfw(tmp_path)
    assert not (tmp_path / "pairs.txt").exists()
    assert (tmp_path / "people.txt").exists()


def test_the_next_mirror_helps(mirror, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        dead = f"http://127.0.0.1:{free.getsockname()[1]}/"
    serve_from(monkeypatch, mirror, dead, mirror.url + "absent/", mirror.url)
    del mirror.files["pairs.txt"]
    with pytest.raises(ConnectionError) as info:
        download_lfw(tmp_path)
    assert contents(tmp_path) == mirror.files
    lines = str(info.value).splitlines()
    assert lines[0] == "download_lfw: no mirror delivered pairs.txt"
    host = dead.removeprefix("http://").removesuffix("/")
    assert (
        lines[1] == f"  {host} cannot be reached: [Errno {errno.ECONNREFUSED}] Connection refused"
    )
    assert lines[2] == f"  {mirror.url}absent/pairs.txt: HTTP 404 Not Found"


def test_without_network_one_clear_message(mirror, tmp_path, monkeypatch):
    asked = []

    def connect(connection):
        asked.append(connection.host)
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr("http.client.HTTPConnection.connect", connect)
    serve_from(monkeypatch, mirror, "http://one.invalid/", "http://two.invalid/")
    with pytest.raises(ConnectionError) as info:
        download_lfw(tmp_path / "cache")
    assert asked == ["one.invalid", "two.invalid"]  # each once, not once per file
    message = str(info.value)
    names = ", ".join((*TEXTS, "lfw-deepfunneled.tgz"))
    why = f"cannot be reached: [Errno {errno.ENETUNREACH}] Network is unreachable"
    assert message.splitlines()[:-1] == [
        f"download_lfw: no mirror delivered {names}",
        f"  one.invalid {why}",
        f"  two.invalid {why}",
    ]
    assert f"put them into {(tmp_path / 'cache').resolve()}" in message
    assert "--data synthetic" in message


@pytest.mark.usefixtures("here")
def test_a_full_disk_is_no_dead_mirror(mirror, tmp_path, small_disk):
    small_disk(50_000)
    with pytest.raises(OSError, match="File too large") as info:
        download_lfw(tmp_path)
    assert info.value.errno == errno.EFBIG
    assert (tmp_path / "lfw-deepfunneled.tgz.part").stat().st_size == 50_000
    assert len(mirror.asked_for("tgz")) == 1


def test_options(tmp_path):
    assert public is download_lfw
    with pytest.raises(ValueError, match="images must be one of 'deepfunneled', 'funneled'"):
        download_lfw(tmp_path, images="original")


def test_every_file_has_a_mirror_and_a_checksum():
    lengths = {"sha256": 64, "md5": 32}
    for remote in (*PROTOCOL_FILES, *ARCHIVES.values()):
        algorithm, digest = remote.checksum.split(":")
        assert len(digest) == lengths[algorithm]
        assert remote.urls
        assert all(url.startswith(("http://", "https://")) for url in remote.urls)


@pytest.mark.lfw
def test_the_published_checksums(real_lfw):
    for remote in PROTOCOL_FILES:
        data = (real_lfw / remote.name).read_bytes()
        assert remote.checksum == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert remote.size == len(data)
    assert len(View1(real_lfw).test.pairs) == 1000
