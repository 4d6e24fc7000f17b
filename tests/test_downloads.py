"""Downloads against a server on this machine that breaks off, lies, fails and knows no Range."""

import gzip
import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from course_utils import downloads
from course_utils.downloads import cache_folder, fetch

CONTENT = bytes(i * i % 251 for i in range(500_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


class Handler(BaseHTTPRequestHandler):
    """The first part of the path says how it behaves; every answer is noted as (path, Range, bytes sent)."""

    def do_GET(self):
        behaviour = self.path.split("/")[1]
        asked = self.headers.get("Range")
        count = self.server.count[self.path]
        self.server.count[self.path] += 1
        data = self.server.files.get(self.path, CONTENT)
        if behaviour == "missing":
            self.server.log.append((self.path, asked, 0))
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and behaviour != "norange" else 0
        if start >= len(data):
            self.server.log.append((self.path, asked, 0))
            self.send_error(416)
            return
        body, length = data[start:], len(data) - start
        if behaviour == "cut" and count == 0:
            body = body[:HALF]
        elif behaviour == "dead":  # a little each time, and never the rest
            body = body[:1000]
        elif behaviour == "nothing":
            body = b""
        self.server.log.append((self.path, asked, len(body)))  # before it is sent: the test may look at once
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(length))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if behaviour == "slow":
            self.wfile.write(body[:HALF])
            self.wfile.flush()
            self.server.halfway.set()
            self.server.go_on.wait(30)
            body = body[HALF:]
        try:
            self.wfile.write(body)
        except OSError:
            pass  # who asked has been killed

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.log, server.count, server.files = [], Counter(), {}
    server.halfway, server.go_on = threading.Event(), threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def only_this_is_kept(cache, name):
    """Nothing but the file and its lock: no part is left over."""
    return {path.name for path in cache.rglob("*") if path.is_file()} <= {name, f"{name}.lock"}


def test_complete_and_kept(server, cache, capfd):
    url = f"{server.url}/good/file.bin"
    path = fetch([url], SHA256, "folder/file.bin")
    assert path == cache / "folder" / "file.bin" and path.read_bytes() == CONTENT
    assert "file" in capfd.readouterr().err  # the progress bar
    assert fetch([url], SHA256, "folder/file.bin") == path
    assert server.log == [("/good/file.bin", None, len(CONTENT))]  # asked for once
    assert only_this_is_kept(cache, "file.bin")


def test_quiet(server, capfd):
    fetch([f"{server.url}/good/x"], SHA256, "x", quiet=True)
    assert capfd.readouterr() == ("", "")


def test_cut_off_and_resumed(server, cache):
    """The second request asks for the rest, and only the rest is sent."""
    url = f"{server.url}/cut/file.bin"
    assert fetch([url], SHA256, "file.bin", quiet=True).read_bytes() == CONTENT
    rest = len(CONTENT) - HALF
    assert server.log == [("/cut/file.bin", None, HALF), ("/cut/file.bin", f"bytes={HALF}-", rest)]
    assert only_this_is_kept(cache, "file.bin")


def test_a_later_call_goes_on(server, cache):
    """The first call gives up; what it got is not asked for again."""
    url = f"{server.url}/dead/file.bin"
    with pytest.raises(OSError, match="broke off after 5,000 bytes"):
        fetch([url], SHA256, "file.bin", quiet=True)
    assert not (cache / "file.bin").exists()
    with pytest.raises(OSError, match="broke off after 10,000 bytes"):
        fetch([url], SHA256, "file.bin", quiet=True)
    assert [asked for _, asked, _ in server.log] == [None, *(f"bytes={k * 1000}-" for k in range(1, 10))]


def test_a_server_that_sends_nothing_is_given_up_at_once(server):
    with pytest.raises(OSError, match="broke off after 0 bytes"):
        fetch([f"{server.url}/nothing/x"], SHA256, "x", quiet=True)
    assert len(server.log) == 1


def test_a_killed_download_goes_on(server, cache):
    """The process dies halfway, as a closed notebook does; the lock does not outlive it."""
    url = f"{server.url}/slow/file.bin"
    code = f"from course_utils.downloads import fetch; fetch([{url!r}], {SHA256!r}, 'file.bin', quiet=True)"
    process = subprocess.Popen([sys.executable, "-c", code])
    assert server.halfway.wait(60)
    wait_until(lambda: sum(path.stat().st_size for path in cache.glob("*.part")) > 0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.go_on.set()
    (part,) = cache.glob("*.part")
    have = part.stat().st_size
    assert 0 < have <= HALF and not (cache / "file.bin").exists()
    assert fetch([url], SHA256, "file.bin", quiet=True).read_bytes() == CONTENT
    assert server.log[-1][1] == f"bytes={have}-"


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def part_of(cache, url, name, content):
    """Leave a part as an earlier call would have."""
    server_side = downloads.zlib.crc32(url.encode())
    cache.mkdir(parents=True, exist_ok=True)
    part = cache / f"{name}.{server_side:08x}.part"
    part.write_bytes(content)
    return part


def test_a_server_without_range_starts_again(server, cache):
    url = f"{server.url}/norange/x"
    part_of(cache, url, "x", CONTENT[:HALF])
    assert fetch([url], SHA256, "x", quiet=True).read_bytes() == CONTENT
    assert server.log == [("/norange/x", f"bytes={HALF}-", len(CONTENT))]


def test_a_part_that_is_whole_is_only_checked(server, cache):
    url = f"{server.url}/good/x"
    part_of(cache, url, "x", CONTENT)
    assert fetch([url], SHA256, "x", quiet=True).read_bytes() == CONTENT
    assert server.log == [("/good/x", f"bytes={len(CONTENT)}-", 0)]


def test_a_spoilt_part_is_dropped_and_the_address_tried_afresh(server, cache):
    url = f"{server.url}/good/x"
    part_of(cache, url, "x", b"\0" * HALF)
    assert fetch([url], SHA256, "x", quiet=True).read_bytes() == CONTENT
    assert [asked for _, asked, _ in server.log] == [f"bytes={HALF}-", None]
    assert only_this_is_kept(cache, "x")


def test_wrong_checksum(server, cache):
    """Nothing of it stays, not even a part that would spoil the next try."""
    server.files["/good/other"] = CONTENT[:-1] + b"?"
    with pytest.raises(OSError, match="wrong checksum"):
        fetch([f"{server.url}/good/other"], SHA256, "x", quiet=True)
    assert len(server.log) == 1
    assert only_this_is_kept(cache, "x") and not (cache / "x").exists()


def test_the_next_mirror_where_the_first_lies_or_has_nothing(server):
    server.files["/good/other"] = b"an error page that calls itself a success"
    urls = [f"{server.url}/{path}" for path in ("missing/x", "good/other", "good/x")]
    urls.insert(0, f"http://127.0.0.1:{closed_port()}/x")
    assert fetch(urls, SHA256, "x", quiet=True).read_bytes() == CONTENT
    assert [path for path, _, _ in server.log] == ["/missing/x", "/good/other", "/good/x"]


def test_several_checksums(server):
    assert fetch([f"{server.url}/good/x"], ("0" * 64, SHA256), "x", quiet=True).exists()


def test_checked_by_content_where_mirrors_compress_anew(server):
    """Two archives of one content differ; both are right, and one that is cut short is not."""
    level1, level9 = (gzip.compress(CONTENT, level) for level in (1, 9))
    assert level1 != level9
    server.files = {"/good/1": level1, "/good/9": level9, "/good/short": level9[:-9]}
    for name in ("1", "9"):
        path = fetch([f"{server.url}/good/{name}"], SHA256, f"{name}.gz", opened=gzip.open, quiet=True)
        assert gzip.decompress(path.read_bytes()) == CONTENT
    with pytest.raises(OSError, match="wrong checksum"):
        fetch([f"{server.url}/good/short"], SHA256, "short.gz", opened=gzip.open, quiet=True)


def test_a_file_spoilt_in_the_cache_is_replaced(server, cache):
    cache.mkdir()
    (cache / "x").write_bytes(CONTENT[:-1])
    assert fetch([f"{server.url}/good/x"], SHA256, "x", quiet=True).read_bytes() == CONTENT


def test_no_network(cache):
    """The message names every address, the reason, what to do instead, and where a file got elsewhere goes."""
    url = f"http://127.0.0.1:{closed_port()}/x"
    with pytest.raises(OSError) as caught:
        fetch([url], SHA256, "x", advice="Take the embedded digits.", quiet=True)
    message = str(caught.value)
    assert url in message and "refused" in message and "Take the embedded digits." in message
    assert str(cache / "x") in message
    (cache / "x").write_bytes(CONTENT)  # as the message says
    assert fetch([url], SHA256, "x", quiet=True) == cache / "x"


def test_a_file_put_there_by_hand_with_a_wrong_checksum_is_named(cache):
    cache.mkdir()
    (cache / "x").write_bytes(b"?")
    with pytest.raises(OSError, match="lies at .* wrong checksum"):
        fetch([f"http://127.0.0.1:{closed_port()}/x"], SHA256, "x", quiet=True)
    assert (cache / "x").read_bytes() == b"?"  # not ours to delete


def test_no_such_host():
    with pytest.raises(OSError, match="can't download x"):
        fetch(["http://no-such-host.invalid/x"], SHA256, "x", quiet=True)


def test_the_cache_is_a_file(tmp_path, monkeypatch, server):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match="COURSE_DATA"):
        fetch([f"{server.url}/good/x"], SHA256, "x", quiet=True)
    assert server.log == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process with fewer rights is forked")
@pytest.mark.parametrize("filled", [False, True])
def test_read_only_cache(filled, server, monkeypatch):
    """What is in it serves; what is not makes a message. Root may write anywhere: a fork without its rights asks."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        cache.mkdir()
        if filled:
            (cache / "x").write_bytes(CONTENT)
        os.chmod(folder, 0o755)
        os.chmod(cache, 0o555)
        monkeypatch.setenv("COURSE_DATA", str(cache))
        read, write = os.pipe()
        if not (child := os.fork()):
            try:
                if os.geteuid() == 0:
                    os.setgid(65534)
                    os.setuid(65534)
                answer = str(fetch([f"{server.url}/good/x"], SHA256, "x", quiet=True))
            except BaseException as error:
                answer = f"{type(error).__name__}: {error}"
            os.write(write, answer.encode())
            os._exit(0)
        os.close(write)
        os.waitpid(child, 0)
        with os.fdopen(read) as pipe:
            answer = pipe.read()
        os.chmod(cache, 0o755)
        if filled:
            assert answer == str(cache / "x")
        else:
            assert answer.startswith("OSError: can't keep x in") and "COURSE_DATA" in answer
    assert server.log == []


def test_no_room(server, cache, monkeypatch):
    """A full disk is not taken for a mirror's fault: the others are not asked, and the message says so."""

    def full(part, *options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(downloads, "open", full, raising=False)
    with pytest.raises(OSError, match="(?s)No space left.*COURSE_DATA"):
        fetch([f"{server.url}/good/x", f"{server.url}/good/y"], SHA256, "x", quiet=True, opened=Path.open)
    assert server.count == {"/good/x": 1}


def test_two_processes_at_once(server, cache):
    """One downloads, the other waits and finds the file: a single request."""
    url = f"{server.url}/slow/file.bin"
    code = f"""
from course_utils.downloads import fetch
print("ready", flush=True)
input()
print(fetch([{url!r}], {SHA256!r}, "file.bin", quiet=True))
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    assert server.halfway.wait(60)
    time.sleep(1)  # time for the other to ask too, if it did not wait
    server.go_on.set()
    answers = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert answers == [str(cache / "file.bin")] * 2
    assert [process.returncode for process in processes] == [0, 0]
    assert (cache / "file.bin").read_bytes() == CONTENT
    assert server.count == {"/slow/file.bin": 1}


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_DATA", "~/somewhere")
    assert cache_folder() == Path.home() / "somewhere"
    monkeypatch.delenv("COURSE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder().name == "course_utils"
