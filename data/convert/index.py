"""Which image below a folder a name means: the image of that name, or the only possible one."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from data.convert.names import OTHER_CASE, OTHER_SUFFIX, SAME, WORSE, Catalogue, Name, best, common_tail, nearness, parse_name
from data.earlier import leave_out_earlier
from data.files import find_images

# Folders that by custom hold masks with the stems of the images they belong to: searched only when a name says so.
MASKS = frozenset({"annotation", "annotations", "ground_truth", "groundtruth", "gt", "label", "labels", "mask", "masks",
                   "segmentation", "segmentationclass", "segmentationobject"})

HOW = {SAME: "in another folder", OTHER_CASE: "in another case", OTHER_SUFFIX: "with another suffix"}


class NoImage(ValueError):
    """A name that means no image, or none for certain. `absent`: no file bears it, so it may be stale."""

    def __init__(self, reason: str, absent: bool = False) -> None:
        super().__init__(reason)
        self.absent = absent


@dataclass(frozen=True)
class Match:
    """An image found by a name. `distance` is 0 for the very name and grows with what differs, of which `how` tells.

    `nearness` counts the folders that image and annotation file share.
    """

    image: Path
    distance: int = 0
    how: str = ""
    nearness: int = 0

    @property
    def named(self) -> bool:
        """Whether the file name agrees to the letter, in whatever folder."""
        return self.distance < WORSE


class ImageIndex:
    """The images below a folder, without what an earlier run wrote there (to `out`, or as another data set)."""

    def __init__(self, source: Path, out: Path | None = None) -> None:
        self.source = source
        images = leave_out_earlier(find_images(source), source, out)
        self._by_real_path: dict[str, Path] = {}
        for image in images:
            self._by_real_path.setdefault(os.path.realpath(image), image)
        self.images = list(self._by_real_path.values())  # a folder may be linked twice: each image once
        self._names = Catalogue({image: parse_name(image.relative_to(source).as_posix()) for image in self.images})
        self._by_path = {os.path.abspath(image): image for image in self.images}
        self._by_bare_path: dict[str, list[Path]] = defaultdict(list)  # without suffix
        for image in self.images:
            self._by_bare_path[os.path.abspath(image.with_suffix(""))].append(image)

    def folder(self, image: Path) -> tuple[str, ...]:
        """Return the folders between the source and an image."""
        return self._names.names[image].folders

    def akin(self, name: str) -> list[Path]:
        """Return all images of a name's stem, in any folder, case and format."""
        try:
            return self._names.akin(parse_name(name))
        except ValueError:
            return []

    @property
    def folders(self) -> frozenset[tuple[str, ...]]:
        """Return all folders, from the source, that hold images."""
        return self._names.folders

    def holds(self, folder: tuple[str, ...], name: str) -> bool:
        """Tell whether a folder holds an image of a name's stem."""
        return any(self.folder(image) == folder for image in self._names.akin(parse_name(name), folder))

    def is_mask(self, image: Path) -> bool:
        """Tell by its folder whether an image is the mask of another."""
        return is_mask_folder(self.folder(image))

    def find(self, written: str, near: Path, folders: Sequence[str] = (), hints: Sequence[str] = (),
             home: tuple[str, ...] | None = None) -> Match:
        """Return the image that a name means.

        The name is taken as a path from the annotation file `near`, from the folders above it up to the source, and
        from their `folders`, where a format keeps its images. Where it leads to no file, the one image that shares its
        file name and most of its folders is taken: same letters before another case before another suffix.

        Args:
            written: the name as the tool wrote it.
            near: the annotation file.
            folders: names of folders where the format keeps images.
            hints: other names of the image, which decide among several.
            home: the only folder, from the source, where a name without folder is looked for.

        Raises:
            NoImage: there is none, several are as likely, or the file cannot be used; the reason is a phrase.
        """
        name = parse_name(written)
        if not name.parts:
            raise NoImage("no image is named", absent=True)
        if len(name.parts) > 1:
            home = None
        image = self._at(name, near, tuple(folders), home)
        if image:
            return Match(image, nearness=self._nearness(image, near))
        try:
            return self._search(name, near, hints, home)
        except NoImage as error:
            if error.absent and (plain := unquote(written)) != written:
                return self.find(plain, near, folders, hints, home)
            raise

    def _at(self, name: Name, near: Path, folders: tuple[str, ...], home: tuple[str, ...] | None) -> Path | None:
        """Return the image that a path leads to. Raises `NoImage` for a file that is there and cannot be used."""
        source = os.path.abspath(self.source)
        bases = _bases(source, os.path.abspath(near.parent), folders) if home is None else [os.path.join(source, *home)]
        for base in bases:
            path = os.path.normpath(os.path.join(base, name.text))
            found = [self._by_path[path]] if path in self._by_path else []
            if not name.suffix:
                found = self._by_bare_path.get(path, found)
            if len(found) > 1:
                raise NoImage(f"its image is one of {_listed(found)}; give the name with its suffix")
            if found:
                return found[0]
            if os.path.isfile(path):
                return self._at_link(path)
        return None

    def _at_link(self, path: str) -> Path:
        """Return the image that a file below the source is by another path. Raises `NoImage` for any other file."""
        real = os.path.realpath(path)
        if real in self._by_real_path:
            return self._by_real_path[real]
        if not Path(real).is_relative_to(os.path.realpath(self.source)):
            raise NoImage(f"{path} lies outside {self.source}; give a --source that holds it")
        raise NoImage(f"{path} is hidden, of no format that is read, or output of an earlier run")

    def _search(self, name: Name, near: Path, hints: Iterable[str], home: tuple[str, ...] | None) -> Match:
        found = self._names.closest(name, lambda image: home in (None, self.folder(image))
                                    and self._may_mean(name, image, near))
        if not found:
            others = [image for image in self._names.akin(name) if self._may_mean(name, image, near)]
            where = f" in {'/'.join(home or name.folders)}, and {_listed(others)} may be another" if others else ""
            raise NoImage(f"its image was not found{where}", absent=True)
        image = self._only(found, near, hints)
        distance, kind = self._names.distance(name, image), self._names.kind(name, image)
        return Match(image, distance, HOW[kind] if distance else "", self._nearness(image, near))

    def _may_mean(self, name: Name, image: Path, near: Path) -> bool:
        """Tell whether a name may mean an image: a mask only when its folder is named, or holds the annotation."""
        if not self.is_mask(image) or image.parent == near.parent:
            return True
        return bool(common_tail(name.folders, self.folder(image))) and self._names.kind(name, image) == SAME

    def _only(self, found: list[Path], near: Path, hints: Iterable[str]) -> Path:
        """Return the one image that a hint or the annotation's folder points to. Raises `NoImage` without one."""
        for hint in hints:
            folders = parse_name(hint).folders
            in_common = {image: common_tail(folders, self.folder(image)) for image in found}
            found = best(found, in_common.__getitem__)
        found = best(found, lambda image: self._nearness(image, near))
        if len(found) > 1:
            raise NoImage(f"its image is one of {_listed(found)}; give the name with its folder and suffix")
        return found[0]

    def _nearness(self, image: Path, near: Path) -> int:
        if not near.is_relative_to(self.source):
            return 0
        return nearness(self.folder(image), near.relative_to(self.source).parts[:-1])


def is_mask_folder(folder: Iterable[str]) -> bool:
    """Tell by the parts of a path whether a folder holds masks."""
    return not MASKS.isdisjoint(part.casefold() for part in folder)


@lru_cache(maxsize=4096)
def _bases(source: str, folder: str, usual: tuple[str, ...]) -> list[str]:
    """Return the folders that a name may start from: the annotation's, those above it up to the source, and theirs."""
    above = [folder]
    while above[-1] != source and above[-1].startswith(source + os.sep):
        above.append(os.path.dirname(above[-1]))
    if above[-1] != source:
        above = [folder, source]
    return list(dict.fromkeys(os.path.join(base, part) for base in above for part in ("", *usual)))


def _listed(images: Iterable[Path]) -> str:
    names = [str(image) for image in images]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
