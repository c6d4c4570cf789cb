"""`detect.py --sort-into`: links and copies by verdict. No file of a user's is replaced or removed, whatever has its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from cfg import UserError
from engine.detection.deciding import COPIES, Sorter
from engine.detection.listing import FileList
from inspection.rules import Code

TEXT = "ok,ng,review,undefined"


def write(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content or path.name)
    return path


def below(folder: Path) -> dict[str, str]:
    """What lies in a folder: names and contents."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != COPIES)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def sort(source: Path | str, folder: Path, codes: dict[str, Code], copy: bool, text: str = TEXT) -> None:
    files = FileList([str(source)])
    sorter = Sorter(text, folder, copy, files)
    for path, relative in files:
        sorter.put(path, relative, codes[path.name])


@pytest.mark.parametrize("copy", [False, True])
def test_a_second_run_moves_what_the_first_one_sorted(tmp_path: Path, copy: bool) -> None:
    for name in ("a.png", "b.png"):
        write(tmp_path / "in" / name)
    for code in (Code.OK, Code.NG, Code.NG):
        sort(tmp_path / "in", tmp_path / "run", {"a.png": code, "b.png": Code.OK}, copy)
    assert below(tmp_path / "run") == {"ng/a.png": "a.png", "ok/b.png": "b.png"}
    assert below(tmp_path / "in") == {"a.png": "a.png", "b.png": "b.png"}
    assert (tmp_path / "run/ng/a.png").is_symlink() != copy


@pytest.mark.parametrize("copy", [False, True])
def test_another_lot_with_the_same_names(tmp_path: Path, copy: bool) -> None:
    out = ",".join(str(tmp_path / "out" / name) for name in TEXT.split(","))
    for lot in ("one", "two", "three"):
        write(tmp_path / lot / "001.png", lot)
        for _ in range(2):
            sort(tmp_path / lot, tmp_path / "run", {"001.png": Code.OK}, copy, out)
    found = below(tmp_path / "out")
    assert found["ok/001.png"] == "one" and sorted(found.values()) == ["one", "three", "two"]
    for lot, kept in (("one", "three two"), ("two", "three"), ("three", "")):  # rejected one by one: none of them stays among the OK ones
        sort(tmp_path / lot, tmp_path / "run", {"001.png": Code.NG}, copy, out)
        assert sorted(text for name, text in below(tmp_path / "out").items() if name.startswith("ok")) == kept.split()
    assert sorted(below(tmp_path / "out").values()) == ["one", "three", "two"]


@pytest.mark.parametrize("copy", [False, True])
def test_other_files_stay(tmp_path: Path, copy: bool) -> None:
    """Of the same name as an image: a person's own file, and a link to another one."""
    mine = write(tmp_path / "out/ok/001.png", "mine")
    (tmp_path / "out/ng").mkdir()
    (tmp_path / "out/ng/001.png").symlink_to(mine)
    write(tmp_path / "in/001.png", "image")
    for code in (Code.OK, Code.NG):
        sort(tmp_path / "in", tmp_path / "out", {"001.png": code}, copy)
    found = below(tmp_path / "out")
    assert (found.pop("ok/001.png"), found.pop("ng/001.png")) == ("mine", "mine") and list(found.values()) == ["image"]
    assert next(iter(found)).startswith("ng/001-")


def test_a_copy_of_a_person_stays(tmp_path: Path) -> None:
    """Sorted by hand before, with another verdict."""
    write(tmp_path / "in/a.png")
    write(tmp_path / "run/ng/a.png")
    for code in (Code.OK, Code.REVIEW):
        sort(tmp_path / "in", tmp_path / "run", {"a.png": code}, True)
    assert below(tmp_path / "run") == {"ng/a.png": "a.png", "review/a.png": "a.png"}


@pytest.mark.parametrize("source", ["parts/ok/*.png", "list.txt", "parts/ok/001.png", "parts/ok/sub/../001.png"])
def test_folders_with_images_of_the_source_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """A glob, a list or a file names images one by one: a folder that holds them is no place to sort them into."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "parts/ok/001.png")
    (tmp_path / "parts/ok/sub").mkdir()
    write(tmp_path / "list.txt", "parts/ok/001.png\n")
    (tmp_path / "link").symlink_to(tmp_path / "parts")
    for folder in ("parts", "link"):
        text = ",".join(str(tmp_path / folder / name) for name in TEXT.split(","))
        with pytest.raises(UserError, match="expected folders without images of --source"):
            sort(source, tmp_path / "run", {"001.png": Code.NG}, True, text)
    assert below(tmp_path / "parts") == {"ok/001.png": "001.png"}


def test_what_cannot_be_read_keeps_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "in/x.png")
    write(tmp_path / "in/sub/x.png", "broken")
    files = FileList([str(tmp_path / "in")])
    sorter = Sorter(TEXT, tmp_path / "run", False, files)
    sorter.put(tmp_path / "in/x.png", Path("x.png"), Code.NG)
    sorter.skip(tmp_path / "in/sub/x.png")
    sorter.skip(tmp_path / "in/missing.png")
    assert below(tmp_path / "run") == {"ng/x.png": "x.png", "undefined/sub/x.png": "broken"}


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        Path(target).write_text("half")
        raise OSError(28, "No space left on device")

    write(tmp_path / "in/a.png")
    monkeypatch.setattr("engine.detection.deciding.shutil.copyfile", full)
    with pytest.raises(OSError, match="No space"):
        sort(tmp_path / "in", tmp_path / "run", {"a.png": Code.OK}, True)
    assert below(tmp_path / "run") == {}
