"""Files of a watched folder: each version once, whatever happens to it, and what was there before costs little."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cfg.errors import UserError
from data.decode import Unreadable
from service.cameras import folder as folder_module
from service.cameras import scan as scan_module
from service.cameras import settling as settling_module
from service.cameras.folder import FolderCamera
from service.cameras.ledger import HEADER, Ledger
from service.cameras.options import FolderOptions
from service.cameras.scan import FolderScan
from service.telling import Teller

PNG = b"\x89PNG\r\n\x1a\n%sIEND"  # as far as is looked at here


class Watched:
    """A folder and its camera, of which `look` does one round; `seen` are sources and contents in the order they came."""

    def __init__(self, tmp_path: Path, **options: bool) -> None:
        self.folder, self.state = tmp_path / "in", tmp_path / "state"
        self.folder.mkdir(exist_ok=True)
        self.seen: list[tuple[str, bytes | Unreadable]] = []
        self.options = options
        self.start()

    def start(self, answered: Callable[[str, float], bool] = lambda source, since: False) -> None:
        self.ledger = Ledger(self.state)
        self.camera = FolderCamera(FolderOptions(str(self.folder), **self.options), self.ledger, Teller("in"), answered)

    def again(self) -> None:
        """End, and start anew."""
        self.ledger.close()
        self.start()

    def write(self, name: str, content: bytes, mtime_ns: int | None = None) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        if mtime_ns is not None:
            os.utime(path, ns=(mtime_ns, mtime_ns))
        return path

    def look(self) -> list[str]:
        """Names that came in this round."""
        before = len(self.seen)
        stop = threading.Event()
        stop.wait = lambda seconds: stop.set()
        self.camera.run(lambda data, source: self.seen.append((source, data)), stop)
        return [source.removeprefix("in/") for source, _ in self.seen[before:]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling_module, "SETTLED", 0.0)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_each_picture_once_in_the_order_of_writing_also_after_a_restart(watched: Watched) -> None:
    watched.write("b.png", PNG % b"1", 1_000_000_001)
    watched.write("a.png", PNG % b"2", 3_000_000_001)
    watched.write("sub/c.jpeg", b"no picture", 2_000_000_001)
    assert watched.look() == ["b.png", "sub/c.jpeg", "a.png"] and watched.seen[1][1] == b"no picture"
    assert watched.look() == []
    watched.again()
    watched.write("d.png", PNG % b"4")
    assert watched.look() == ["d.png"] and watched.look() == [] and watched.camera.healthy()


def test_overwritten_it_is_a_new_picture_and_renamed_the_same(watched: Watched) -> None:
    path = watched.write("x.png", PNG % b"1")
    assert watched.look() == ["x.png"]
    watched.write("x.png", PNG % b"2")
    assert watched.look() == ["x.png"], "at once, though its name was known"
    path.rename(watched.folder / "done.png")
    assert watched.look() == [] and watched.camera.renamed == 1
    watched.again()
    (watched.folder / "done.png").rename(watched.folder / "later.png")
    assert watched.look() == []
    watched.write("x.png", PNG % b"2")
    assert watched.look() == ["x.png"], "another part may look the same"


def test_on_a_file_system_with_coarse_times_nothing_is_taken_for_renamed(watched: Watched) -> None:
    watched.write("black-1.png", PNG % b"", 5_000_000_000)
    watched.write("black-2.png", PNG % b"", 5_000_000_000)
    assert watched.look() == ["black-1.png", "black-2.png"]


def test_a_file_that_is_being_written_is_waited_for(watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    clock = [100.0]
    monkeypatch.setattr(settling_module, "SETTLED", 0.3)
    monkeypatch.setattr(settling_module.time, "monotonic", lambda: clock[0])
    rounds = []
    for second, content in enumerate([b"", PNG[:8], PNG % b"12", PNG % b"123", None, None]):
        clock[0] += 0.2
        if content is not None:
            watched.write("x.png", content, 10**9 * second + 1)
        rounds.append(watched.look())
    assert rounds == [[], [], [], [], [], ["x.png"]] and watched.seen[0][1] == PNG % b"123"
    watched.write("cut.png", PNG[:8])
    watched.write("empty.jpg", b"")
    watched.look()
    for _ in range(9):
        clock[0] += 1.0
        assert watched.look() == [], "its writer may be slow"
    clock[0] += 2.0
    assert sorted(watched.look()) == ["cut.png", "empty.jpg"], "UNDEFINED is for the service to say"
    for second in range(120):
        clock[0] += 0.2
        watched.write("slow.tif", b"x" * second)
        assert watched.look() == []
    assert sum("not inspected: slow.tif (still being written); tried again" in text for text in caplog.messages) == 1
    clock[0] += 0.4
    assert watched.look() == ["slow.tif"]


def test_deleted_before_it_was_read_is_counted(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling_module, "SETTLED", 100.0)
    watched.write("x.png", PNG % b"1").unlink()
    (path := watched.write("y.png", PNG % b"1"))
    assert watched.look() == []
    path.unlink()
    monkeypatch.setattr(watched.camera.settling, "_waiting", {k: v._replace(since=0, due=0) for k, v in watched.camera.settling._waiting.items()})
    assert watched.look() == [] and watched.camera.state().skipped == 1 and watched.camera.state().waiting == 0


def test_what_is_no_picture_is_left_alone_and_said(watched: Watched, caplog) -> None:
    watched.write("x.txt", b"1")
    watched.write(".hidden.png", PNG % b"1")
    watched.write("x.png.part", PNG % b"1")
    (watched.folder / "self").symlink_to("self")
    assert watched.look() == [] and watched.look() == []
    assert sum("3 files without the suffix of an image are left alone" in text for text in caplog.messages) == 1
    assert sorted(path.name for path in watched.folder.iterdir()) == [".hidden.png", "self", "x.png.part", "x.txt"]


def closed(path: Path) -> None:
    """As for a file that its writer lets nobody read, also where the tests may read everything."""
    path.write_bytes(PNG % b"1")
    path.chmod(0)


def opened(path: str, *more: int) -> int:
    if not os.stat(path).st_mode & 0o400:
        raise PermissionError(13, "Permission denied")
    return os_open(path, *more)


os_open = os.open


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "x.png (a pipe, not a file)"),
        (lambda path: path.symlink_to("nowhere"), "x.png (a link to nothing)"),
        (lambda path: path.symlink_to(path), "x.png (too many levels of symbolic links)"),
        (closed, "x.png (permission denied)"),
    ],
)
def test_what_cannot_be_read_is_said_and_inspected_when_it_can(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog, make: Callable[[Path], None], said: str
) -> None:
    monkeypatch.setattr(folder_module.os, "open", opened)
    monkeypatch.setattr(settling_module, "PATIENCE", 0.0)
    make(path := watched.folder / "x.png")
    assert watched.look() == [] and watched.look() == []
    assert [text for text in caplog.messages if "not inspected" in text] == [f"in: not inspected: {said}; tried again"]
    path.unlink()
    assert watched.look() == [] and not watched.camera.scan.left_out
    watched.write("x.png", PNG % b"1")
    assert watched.look() == ["x.png"]


def test_many_that_cannot_be_read_are_one_line(watched: Watched, caplog) -> None:
    for number in range(5):
        (watched.folder / f"{number}.png").symlink_to(f"later-{number}")
    assert watched.look() == []
    assert sum("(a link to nothing) and 2 more; tried again" in text for text in caplog.messages) == 1
    watched.write("later-3", PNG % b"1")
    assert watched.look() == ["3.png"] and len(watched.camera.scan.left_out) == 4


def test_a_folder_with_the_name_of_an_image_is_a_folder(watched: Watched) -> None:
    watched.write("x.png/y.png", PNG % b"1")
    assert watched.look() == ["x.png/y.png"] and not watched.camera.scan.left_out


def test_links_in_loops_and_twice(watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far/f.png").write_bytes(PNG % b"f")
    (watched.folder / "a-loop").symlink_to("..")
    (watched.folder / "self").symlink_to(".")
    (watched.folder / "one").symlink_to("../far")
    (watched.folder / "two").symlink_to("../far")
    watched.write("x.png", PNG % b"x")
    names = watched.look() + watched.look()
    assert len(names) == 2 and {name.rsplit("/", 1)[-1] for name in names} == {"x.png", "f.png"}


@pytest.mark.skipif(os.name != "posix", reason="names are bytes there")
def test_any_name(watched: Watched) -> None:
    with open(os.fsencode(watched.folder) + b"/\xff\n'\".png", "wb") as file:
        file.write(PNG % b"1")
    names = watched.look()
    assert len(names) == 1 and names[0].encode() and watched.look() == []


def test_a_picture_that_an_earlier_process_had_begun(watched: Watched) -> None:
    watched.write("x.png", PNG % b"1")

    def killed(data: bytes, source: str) -> None:
        raise KeyboardInterrupt

    stop = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        watched.camera.run(killed, stop)
    watched.again()
    assert watched.look() == ["x.png"], "never accepted: it has had no outcome"
    watched.write("y.png", PNG % b"2")
    with pytest.raises(KeyboardInterrupt):
        watched.camera.run(killed, stop)
    asked = []
    watched.ledger.close()
    watched.start(lambda source, since: not asked.append((source, since)))
    assert watched.look() == [] and asked[0][0] == "in/y.png", "accepted: the service has settled it"
    watched.again()
    assert watched.look() == []


def test_a_service_that_is_full_gets_the_picture_later(watched: Watched, caplog) -> None:
    watched.write("x.png", PNG % b"1")
    answers = [RuntimeError("full"), None]
    stop, waits = threading.Event(), []
    stop.wait = lambda seconds: waits.append(seconds) or (len(waits) == 2 and stop.set())

    def submit(data: bytes, source: str) -> None:
        if answer := answers.pop(0):
            raise answer
        watched.seen.append((source, data))

    watched.camera.run(submit, stop)
    assert len(watched.seen) == 1 and "RuntimeError: full; tried again" in caplog.text and watched.camera.healthy()


def test_new_only_leaves_alone_what_was_there_before_the_first_start(tmp_path: Path) -> None:
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/sub/old.png").write_bytes(PNG % b"old")
    watched = Watched(tmp_path, new_only=True)
    watched.write("new.png", PNG % b"new")
    assert watched.look() == ["new.png"]
    watched.ledger.close()
    watched.write("sub/while-away.png", PNG % b"new")
    watched.start()
    assert watched.look() == ["sub/while-away.png"]


def test_new_only_does_not_pass_over_what_comes_between_two_starts(tmp_path: Path) -> None:
    watched = Watched(tmp_path, new_only=True)
    watched.ledger.close()
    watched.write("while-away.png", PNG % b"1")
    watched.start()
    assert watched.look() == ["while-away.png"], "the first start saw an empty folder"


def test_a_sub_folder_that_may_not_be_read_is_said(watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    watched.write("sub/x.png", PNG % b"1")
    watched.write("y.png", PNG % b"2")
    scandir = os.scandir

    def refusing(path: str):
        if path.endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    with monkeypatch.context() as closed:
        closed.setattr(scan_module.os, "scandir", refusing)
        assert watched.look() == ["y.png"] and watched.look() == []
    assert sum("not inspected: sub (permission denied)" in text for text in caplog.messages) == 1
    assert watched.look() == ["sub/x.png"] and not watched.camera.scan.closed


def test_a_folder_that_goes_away_is_unhealthy_until_it_is_back(watched: Watched, caplog) -> None:
    watched.write("x.png", PNG % b"1")
    assert watched.look() == ["x.png"] and watched.camera.healthy()
    watched.folder.rename(watched.folder.with_name("away"))
    assert watched.look() == [] and watched.look() == [] and not watched.camera.healthy()
    assert sum("cannot be read (no such file or directory)" in text for text in caplog.messages) == 1
    watched.folder.with_name("away").rename(watched.folder)
    watched.write("y.png", PNG % b"2")
    assert watched.look() == ["y.png"] and watched.camera.healthy() and "read again" in caplog.text


def test_a_huge_file_is_not_read(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "MOST_BYTES", 100)
    watched.write("x.tif", bytes(200))
    assert watched.look() == ["x.tif"] and str(watched.seen[0][1]) == "expected a file of at most 100 bytes, got 200"
    watched.again()
    assert watched.look() == []


def test_many_files_are_found_in_parts_and_quiet_folders_are_not_listed(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "MOST", 40)
    monkeypatch.setattr(scan_module, "CHUNK", 16)
    for number in range(100):
        watched.write(f"{number % 3}/{number}.png", PNG % b"%d" % number)
    rounds = [watched.look() for _ in range(6)]
    assert sorted(name for names in rounds for name in names) == sorted(f"{n % 3}/{n}.png" for n in range(100))
    assert max(map(len, rounds)) <= 56 and rounds[-1] == []
    monkeypatch.setattr(scan_module, "STILL", -1.0)
    listed: list[str] = []
    chunks = FolderScan._chunks
    monkeypatch.setattr(FolderScan, "_chunks", lambda self, folder: listed.append(folder) or chunks(self, folder))
    watched.write("1/new.png", PNG % b"new")
    assert watched.look() == ["1/new.png"] and listed == ["1"]
    looked: list[str] = []
    look = FolderScan.look
    monkeypatch.setattr(FolderScan, "look", lambda self, path: looked.append(path) or look(self, path))
    watched.write("1/next.png", PNG % b"next")
    assert watched.look() == ["1/next.png"] and len(set(looked)) <= 1 + scan_module.RECENT


def test_a_file_that_was_overwritten_long_after_is_found_by_the_full_look(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "STILL", -1.0)
    for number in range(2 * scan_module.RECENT):
        watched.write(f"{number}.png", PNG % b"%d" % number, 10**9 * number + 1)
    watched.look()
    watched.write("0.png", PNG % b"again")
    assert watched.look() == []
    watched.camera.scan._next_sweep = 0.0
    assert watched.look() == ["0.png"]


def test_a_ledger_keeps_keys_through_merging_and_half_written_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.cameras.ledger.MERGED_AT", 50)
    ledger = Ledger(tmp_path / "l")
    keys = np.random.default_rng(0).integers(0, 2**64, 400, dtype=np.uint64).tolist()
    for key in keys[:200]:
        assert key not in ledger
        ledger.add([key])
    assert ledger.known(keys).tolist() == [True] * 200 + [False] * 200
    with pytest.raises(UserError, match="another process uses it"):
        Ledger(tmp_path / "l")
    ledger.close()
    path = tmp_path / "l/ledger"
    assert path.stat().st_size == HEADER + 200 * 8
    path.write_bytes(path.read_bytes()[:-3])
    ledger = Ledger(tmp_path / "l")
    assert not ledger.fresh and ledger.known(keys[:200]).sum() == 199
    ledger.add([keys[300]])
    ledger.close()
    ledger = Ledger(tmp_path / "l")
    assert keys[300] in ledger and keys[0] in ledger and ledger.known(keys).sum() == 200
    assert ledger.file_key(b"a", 1, 2) != Ledger(tmp_path / "other").file_key(b"a", 1, 2), "each has a secret of its own"
    ledger.close()
    path.write_bytes(b"something else, and longer than a header is")
    with pytest.raises(UserError, match="another file"):
        Ledger(tmp_path / "l")


def test_a_disk_that_is_full_costs_no_picture(watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    watched.write("x.png", PNG % b"1")
    with monkeypatch.context() as full:
        def refuse(*args: object) -> int:
            raise OSError(28, "No space left on device")

        full.setattr("service.cameras.ledger.os.pwrite", refuse)
        assert watched.look() == ["x.png"] and watched.look() == []
        assert not watched.camera.healthy() and "the ledger cannot be written" in caplog.text
    watched.write("y.png", PNG % b"2")
    assert watched.look() == ["y.png"] and watched.camera.healthy()
    watched.again()
    assert watched.look() == [], "both are in it now"
