"""Downloads from a real server on this machine: resumed, checked, unpacked, and what is said when they fail."""

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from igds.data import fashion_mnist
from igds.fetch import LARGE, SOURCES, File, Source, announcement, cache_folder, fetch, is_fetched, place

CONTENT = {"box/train/a/1.png": b"one" * 500_000, "box/val/a/2.png": b"two"}


class Server(ThreadingHTTPServer):
    """Serves `files`; each connection sends at most `most` bytes, and honours Range unless told not to."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.most = 10**9
        self.ranges = True
        self.asked: list[str | None] = []

    def file(self, name: str, content: bytes, *, md5: str | None = None) -> File:
        self.files[f"/{name}"] = content
        address = f"http://127.0.0.1:{self.server_address[1]}/{name}"
        return File(address, len(content), md5 or hashlib.md5(content).hexdigest())


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers["Range"]
        self.server.asked.append(asked)
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.ranges else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : start + self.server.most])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def tgz(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def zipped(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.mkdir("box")
        for name, data in content.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def offer(monkeypatch):
    """Make `box` a data set of one archive, or of the files as they are."""

    def offer(*files: File, root: str | None = "box") -> None:
        monkeypatch.setitem(SOURCES, "box", Source("Box", root, files))

    return offer


def tree(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sentence(raised) -> str:
    message = str(raised.value)
    assert "\n" not in message and message
    return message


@pytest.mark.parametrize(("name", "pack"), [("box.tgz", tgz), ("box.tar.gz", tgz), ("box.zip", zipped)])
def test_an_archive_is_downloaded_unpacked_and_deleted(server, offer, tmp_path, name, pack):
    offer(server.file(name, pack(CONTENT)))
    assert not is_fetched("box", cache=tmp_path)
    events = list(fetch("box", cache=tmp_path))
    assert is_fetched("box", cache=tmp_path)
    assert tree(tmp_path) == CONTENT
    for stage in ("download", "unpack"):
        done = [event.done for event in events if event.stage == stage]
        assert done == sorted(done) and done[0] > 0 and done[-1] <= events[0].total == len(pack(CONTENT))
    assert list(fetch("box", cache=tmp_path)) == [] and len(server.asked) == 1


def test_files_without_an_archive_are_kept_as_they_are(server, offer, tmp_path):
    offer(server.file("a.gz", b"a" * 9), server.file("b.gz", b"b" * 7), root=None)
    assert [(event.file, event.done) for event in fetch("box", cache=tmp_path)] == [("a.gz", 9), ("b.gz", 7)]
    assert tree(tmp_path / "box") == {"a.gz": b"a" * 9, "b.gz": b"b" * 7}
    (tmp_path / "box" / "b.gz").unlink()
    assert not is_fetched("box", cache=tmp_path)
    assert [event.file for event in fetch("box", cache=tmp_path)] == ["b.gz"]


def test_a_connection_that_is_cut_off_goes_on_with_its_next_byte(server, offer, tmp_path):
    content = bytes(range(250)) * 4
    server.most = 400
    offer(server.file("a.bin", content), root=None)
    list(fetch("box", cache=tmp_path))
    assert server.asked == [None, "bytes=400-", "bytes=800-"]
    assert tree(tmp_path / "box") == {"a.bin": content}


def test_an_abandoned_download_goes_on_in_the_next_run(server, offer, tmp_path):
    content = bytes(3 * 2**20)
    offer(server.file("a.bin", content), root=None)
    run = fetch("box", cache=tmp_path)
    kept = next(run).done
    run.close()
    assert 0 < kept < len(content)
    assert next(iter(fetch("box", cache=tmp_path))).done > kept
    list(fetch("box", cache=tmp_path))
    assert server.asked[1] == f"bytes={kept}-"
    assert tree(tmp_path / "box") == {"a.bin": content}


def test_a_server_without_ranges_begins_again(server, offer, tmp_path):
    offer(server.file("a.bin", b"0123456789"), root=None)
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "a.bin.partial").write_bytes(b"01234")
    server.ranges = False
    assert [event.done for event in fetch("box", cache=tmp_path)] == [10]
    assert tree(tmp_path / "box") == {"a.bin": b"0123456789"}


def test_a_server_that_sends_nothing_is_given_up_in_one_sentence(server, offer, tmp_path):
    offer(server.file("a.bin", b"0123456789"), root=None)
    server.most = 0
    with pytest.raises(FileNotFoundError, match="cut off") as raised:
        list(fetch("box", cache=tmp_path))
    assert "a.bin" in sentence(raised)


def test_a_wrong_checksum_is_named_and_nothing_of_the_file_stays(server, offer, tmp_path):
    offer(server.file("box.tgz", tgz(CONTENT), md5="0" * 32))
    with pytest.raises(ValueError, match="checksum") as raised:
        list(fetch("box", cache=tmp_path))
    assert "/box.tgz" in sentence(raised) and f"put it into {tmp_path}" in sentence(raised)
    assert tree(tmp_path) == {} and not is_fetched("box", cache=tmp_path)


@pytest.mark.parametrize("size", [5, 15])
def test_a_file_of_another_size_is_refused_before_it_is_downloaded(server, offer, tmp_path, size):
    file = server.file("a.bin", b"0123456789")
    server.files["/a.bin"] = bytes(size)
    offer(file, root=None)
    with pytest.raises(ValueError, match=f"{size} bytes instead of 10") as raised:
        list(fetch("box", cache=tmp_path))
    sentence(raised)
    assert tree(tmp_path) == {}


def test_a_file_that_is_shorter_than_what_has_arrived_is_refused(server, offer, tmp_path):
    file = server.file("a.bin", b"0123456789")
    server.files["/a.bin"] = b"0123"
    offer(file, root=None)
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "a.bin.partial").write_bytes(b"01234567")
    with pytest.raises(ValueError, match="fewer bytes") as raised:
        list(fetch("box", cache=tmp_path))
    sentence(raised)
    assert tree(tmp_path / "box") == {"a.bin.partial": b"01234567"}  # it may be a passing fault of the network


def test_an_address_without_the_file_is_named_with_the_servers_answer(server, offer, tmp_path):
    offer(server.file("box.tgz", tgz(CONTENT)))
    server.files.clear()
    with pytest.raises(FileNotFoundError, match="404 Not Found") as raised:
        list(fetch("box", cache=tmp_path))
    assert "/box.tgz" in sentence(raised) and str(tmp_path) in sentence(raised)


def test_no_network_is_one_sentence_and_what_had_arrived_is_kept(server, offer, tmp_path):
    file = server.file("a.bin", b"0123456789")
    server.server_close()
    offer(file, root=None)
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "a.bin.partial").write_bytes(b"01234")
    with pytest.raises(FileNotFoundError, match="could not be downloaded") as raised:
        list(fetch("box", cache=tmp_path))
    assert file.url in sentence(raised)
    assert tree(tmp_path / "box") == {"a.bin.partial": b"01234"}


def test_an_archive_that_the_user_put_into_the_cache_is_used(server, offer, tmp_path):
    archive = tgz(CONTENT)
    offer(server.file("box.tgz", archive))
    (tmp_path / "box.tgz").write_bytes(archive)
    assert {event.stage for event in fetch("box", cache=tmp_path)} == {"unpack"}
    assert server.asked == [] and tree(tmp_path) == CONTENT


def test_another_archive_in_the_cache_is_named_and_left_alone(server, offer, tmp_path):
    offer(server.file("box.tgz", tgz(CONTENT)))
    (tmp_path / "box.tgz").write_bytes(b"mine")
    with pytest.raises(ValueError) as raised:
        list(fetch("box", cache=tmp_path))
    assert str(tmp_path / "box.tgz") in sentence(raised)
    assert tree(tmp_path) == {"box.tgz": b"mine"}


def test_stopping_while_unpacking_leaves_the_archive_and_no_half_of_a_data_set(server, offer, tmp_path):
    archive = tgz(CONTENT)
    offer(server.file("box.tgz", archive))
    run = fetch("box", cache=tmp_path)
    next(event for event in run if event.stage == "unpack")
    run.close()
    assert tree(tmp_path) == {"box.tgz": archive} and not is_fetched("box", cache=tmp_path)
    (tmp_path / "box.unpacking" / "box").mkdir(parents=True)  # as a killed process would leave it
    list(fetch("box", cache=tmp_path))
    assert tree(tmp_path) == CONTENT


def test_an_archive_cannot_write_outside_of_its_folder(server, offer, tmp_path):
    offer(server.file("box.tgz", tgz({"box/a": b"a", "../../escaped": b"b"})))
    with pytest.raises(ValueError, match="outside") as raised:
        list(fetch("box", cache=tmp_path / "cache"))
    assert "escaped" in sentence(raised)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize(("name", "hint"), [("imagenete", "imagenette"), ("cifar-10", "cifar10"), ("x", "choose one")])
def test_an_unknown_name_is_answered_at_the_call_with_the_closest(name, hint):
    with pytest.raises(ValueError, match=hint) as raised:
        fetch(name)
    sentence(raised)


def test_the_cache_is_the_users_and_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "igds"
    assert place("cifar10") == tmp_path / "igds" / "cifar10"


def test_the_announcement_says_how_much_from_where_and_to_where(tmp_path):
    text = announcement("imagenette", cache=tmp_path)
    assert "1.6 GB" in text and "https://s3.amazonaws.com/fast-ai-imageclas" in text and str(tmp_path) in text
    assert "170.1 MB" in announcement("cifar10")
    assert {name for name, source in SOURCES.items() if source.size > LARGE} == {"imagenette", "imagewoof"}


def test_every_address_is_one_file_with_a_checksum():
    files = [file for source in SOURCES.values() for file in source.files]
    assert len({file.url for file in files}) == len({file.md5 for file in files}) == len(files)
    for file in files:
        assert file.size > 0 and len(bytes.fromhex(file.md5)) == 16
    for source in SOURCES.values():
        assert source.root is None or len(source.files) == 1


@pytest.fixture
def no_fashion_mnist(monkeypatch, tmp_path) -> Path:
    """Neither where Debian puts it nor in the cache; where its files are all the same."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("igds.data._FASHION_MNIST_DEBIAN", tmp_path / "nowhere")
    return Path("/usr/share/datasets/fashion-mnist")


def test_fashion_mnist_is_fetched_to_where_its_loader_looks_for_it(no_fashion_mnist):
    cache_folder().mkdir()
    place("fashion-mnist").symlink_to(no_fashion_mnist)
    assert is_fetched("fashion-mnist") and len(fashion_mnist("test")) == 10_000


def test_fashion_mnist_is_fetched_by_its_loader_once(server, monkeypatch, no_fashion_mnist):
    files = [server.file(path.name, path.read_bytes()) for path in no_fashion_mnist.glob("t10k-*")]
    monkeypatch.setitem(SOURCES, "fashion-mnist", Source("Fashion-MNIST", None, tuple(files)))
    for _ in range(2):
        assert len(fashion_mnist("test")) == 10_000
    assert len(server.asked) == 2


def test_fashion_mnist_that_cannot_be_fetched_is_one_sentence(server, monkeypatch, no_fashion_mnist):
    file = server.file("train-images-idx3-ubyte.gz", b"images")
    monkeypatch.setitem(SOURCES, "fashion-mnist", Source("Fashion-MNIST", None, (file,)))
    server.files.clear()
    with pytest.raises(FileNotFoundError, match="^Fashion-MNIST is not on this machine, and http://.*404") as raised:
        fashion_mnist("train")
    assert f"put it into {place('fashion-mnist')}, or install Debian's" in sentence(raised)
