"""Addresses of streams: which they are, what is shown of them, and the files named after them."""

from __future__ import annotations

from pathlib import Path

import pytest

import models.environment  # noqa: F401  (before anything here imports ultralytics)
from cfg.errors import UserError
from data.streams.addresses import is_stream, listed_streams, without_password
from engine.detection.stream_source import file_names


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("0", True), ("73", True), ("²", False), ("9" * 40, False), ("RTSP://cam/1", True), ("rtsps://cam", True),
        ("cams.streams", True), ("CAMS.STREAMS", True), ("clip.mp4", False), ("http", False), ("https://x/y.m3u8", True),
    ],
)  # fmt: skip
def test_what_is_a_stream(source: str, expected: bool) -> None:
    assert is_stream(source) is expected


def test_a_file_of_a_number_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("0").mkdir()
    assert not is_stream("0") and is_stream("1")


def test_a_list(tmp_path: Path) -> None:
    (tmp_path / "near.avi").touch()
    text = "\ufeff# all\r\n\r\n  0  \r\nrtsp://u:p@h/1?a=#b  # north\r\nnear.avi\r\nnone.avi\r\n"
    (tmp_path / "x.streams").write_text(text, encoding="utf-8", newline="")
    assert listed_streams(str(tmp_path / "x.streams")) == [
        "0", "rtsp://u:p@h/1?a=#b", str(tmp_path / "near.avi"), str(tmp_path / "none.avi")
    ]  # fmt: skip


@pytest.mark.parametrize("source", ["none.streams", "http://h/x.JPG", "http://[x"])
def test_what_cannot_be_listed(source: str) -> None:
    with pytest.raises(UserError):
        listed_streams(source)


def test_names_and_passwords_are_not_shown() -> None:
    assert without_password("rtsp://admin:secret@10.0.0.1/a?x=1") == "rtsp://10.0.0.1/a?x=1"
    assert without_password("http://h/path@2x?mail=a@b") == "http://h/path@2x?mail=a@b"
    assert without_password("0") == "0"


def test_file_names_are_short_and_differ() -> None:
    shown = ["rtsp://h/a?1", "rtsp://h/a&1", "rtsp://h/a_1-2", "0", "0", "http://h/" + "x" * 5000, "http://h/" + "x" * 5001]
    names = [str(name) for name in file_names(shown)]
    assert len(set(names)) == len(shown) and max(map(len, names)) < 110 and not any("/" in name for name in names)
    assert names[3:5] == ["0", "0-2"]
