"""Where images come from, on the command line: what it means, and one line for each that means nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from cfg.errors import UserError
from service.cameras import FolderOptions, StreamOptions, add_arguments, open_cameras, read_options


def read(*words: str, own: tuple[Path, ...] = ()) -> tuple[FolderOptions | StreamOptions, ...]:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return read_options(parser.parse_args([*words]), own)


def test_folders_streams_and_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("all.streams").write_text("rtsp://u:secret@h/1\n3\n")
    assert read() == ()
    folder, north, south = read("--source", "in", "all.streams", "--new-only", own=(tmp_path / "journal",))
    assert folder == FolderOptions(str(tmp_path / "in"), True)
    assert north == StreamOptions("rtsp://u:secret@h/1", "rtsp://h/1") and south.address == "3" and "secret" not in repr(north)
    names = [camera.name for camera in open_cameras((folder, north, south), tmp_path / "seen")]
    assert names == [str(tmp_path / "in"), "rtsp://h/1", "3"] and list(Path("in").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["none"], "got nothing of that name"),
        (["a.jpg"], "got a file, which detect.py reads"),
        (["rstp://u:secret@h/x"], "expected rtsp://"),
        (["http://u:secret@h/still.jpg"], "expected a stream, got an image's address"),
        (["in", "in/sub"], "given too"),
        (["in", "link"], "given too"),
        (["journal"], "that this service writes into"),
        (["journal/seen"], "that this service writes into"),
        ([".."], "that this service writes into"),
        (["rtsp://h/1", "rtsp://h/1"], "got one twice"),
        (["empty.streams"], "got an empty file"),
    ],
)
def test_what_cannot_be_a_source_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: str) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("in/sub", "journal/seen"):
        Path(folder).mkdir(parents=True)
    for file in ("a.jpg", "empty.streams"):
        Path(file).touch()
    Path("link").symlink_to("in")
    with pytest.raises(UserError) as raised:
        read("--source", *words, own=(tmp_path / "journal",))
    text = str(raised.value)
    assert expected in text and "\n" not in text and "secret" not in text
