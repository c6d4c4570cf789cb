"""`python -m data.convert --format voc --source DIR --out DIR [--splits train=FILE val=FILE]`: to the YOLO layout."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cfg import UserError, guard, printable
from cfg.class_names import shown
from cfg.command_line import read_arguments
from data.convert import READERS, Annotation, Log, Reader, Record, reader
from data.convert.pairing import pair
from data.convert.splits import WHOLE, assign_parts
from data.convert.writer import Outcome, class_names, write
from data.layout import PARTS, keep_apart

LONGEST = 400  # characters of a line of the report: file names may be of any length
SHOWN = 10  # lines of the report for each kind of change; --verbose shows all


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; the options of the chosen format are added to the common ones."""
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--format")
    name = first.parse_known_args(argv)[0].format
    parser = argparse.ArgumentParser(prog="python -m data.convert", description=__doc__)
    parser.add_argument("--format", required=True, metavar="NAME",
                        help=f"one of {', '.join(sorted(READERS))}; `--format NAME --help` shows its own options too")
    parser.add_argument("--source", type=Path, required=True, help="folder with images and annotations")
    parser.add_argument("--out", type=Path, required=True, help="new folder: images/, labels/, data.yaml")
    parser.add_argument("--splits", nargs="+", default=[], metavar="PART=FILE",
                        help="lists of the images of train, val, test (COCO: the JSON files); without them everything "
                             "goes into one part, to be divided by data.split")
    parser.add_argument("--names", help="class names in index order, a,b,c (default: the format's, or those found)")
    parser.add_argument("--ignore-unknown", action="store_true", help="drop boxes of classes that --names leaves out")
    parser.add_argument("--background", action="store_true", help="images without annotation are defect-free images")
    parser.add_argument("--link", action="store_true", help="link the images instead of copying them")
    parser.add_argument("--overwrite", action="store_true", help="replace the data set in --out")
    parser.add_argument("--verbose", action="store_true", help="list every change, not the first ones of each kind")
    if name:
        reader(name).add_arguments(parser)
    return read_arguments(parser, argv)


def read_splits(pairs: list[str]) -> dict[str, Path]:
    """Turn `PART=FILE` pairs into a mapping. Raises `UserError` for another form, part, or a file that is not there."""
    splits: dict[str, Path] = {}
    for given in pairs:
        part, _, file = given.partition("=")
        if part not in PARTS or not file:
            raise UserError(f"--splits: expected PART=FILE with PART one of {', '.join(PARTS)}, got '{given}'")
        if not Path(file).is_file():
            raise UserError(f"--splits: expected a file for '{part}', got {file}, which is none; correct the path")
        splits[part] = Path(file)
    return splits


def collect(options: argparse.Namespace, log: Log) -> tuple[list[Record], tuple[str, ...]]:
    """Read all annotations; return the records and the format's own class names.

    Raises:
        UserError: the source is no folder, or holds no annotation of this format.
    """
    if not options.source.is_dir():
        raise UserError(f"--source: expected a folder, got {options.source}, which is none; correct the path")
    source = reader(options.format)(options.source, options, log)
    records = pair(source.read(), source, log)
    if not records:
        first = f": {log.skipped[0][0]}: {log.skipped[0][1]}" if log.skipped else ""
        raise UserError(f"{options.source}: expected {options.format} annotations with images, got none that can be "
                        f"used{first}; check --format and --source")
    if options.background:
        records += background(source, records, log)
    return records, source.classes


def background(source: Reader, records: list[Record], log: Log) -> list[Record]:
    """Return records without boxes for the images that no annotation names, nor may name.

    Masks are none, and an image whose annotation may be one that was left out is not defect-free.
    """
    known = {record.image for record in records}
    folders = {image.parent for image in known if image}
    doubtful = {image for name in log.doubtful for image in source.index.akin(name)}
    free = []
    for image in source.unannotated():
        if image in known:
            continue
        if image in doubtful:
            log.mend("images whose annotation was left out: not taken as defect-free", image)
        elif source.index.is_mask(image) and image.parent not in folders:
            log.mend("masks: not taken as defect-free images", image)
        else:
            free.append(Record(image, source.key(image), Annotation(image, [])))
    return free


def report(outcome: Outcome, log: Log, verbose: bool) -> None:
    """Print images and boxes of each part, what was mended in which file, and what was left out."""
    parts = [part for part in (*PARTS, WHOLE) if part in outcome.images]
    width = max(map(len, map(shown, ("images", *outcome.names))))
    print(f"{'':{width}}  " + "  ".join(f"{part:>7}" for part in parts))
    for name, counts in (("images", outcome.images), *outcome.boxes.items()):
        print(f"{shown(name):{width}}  " + "  ".join(f"{counts.get(part, 0):7d}" for part in parts))
    if outcome.unlisted:
        print(f"{outcome.unlisted} images are in no split list: left out")
    lost = {f"not used: {kind}": entries for kind, entries in log.lost.items()}
    for kind, entries in (*log.mended.items(), *lost.items(), ("files left out", log.skipped)):
        if entries:
            print(f"{kind}: {len(entries)}")
        for file, text in entries if verbose else entries[:SHOWN]:
            print("  " + printable(f"{file}: {text}" if text else f"{file}")[:LONGEST])
        if len(entries) > SHOWN and not verbose:
            print(f"  ... and {len(entries) - SHOWN} more (--verbose)")


def main(argv: list[str] | None = None) -> int:
    """Convert a data set. Returns 0, or 1 when files or annotations had to be left out (the rest is written)."""
    options = parse(argv)
    options.splits = read_splits(options.splits)
    keep_apart(options.source, options.out)
    log = Log()
    records, fixed = collect(options, log)
    listed = assign_parts(records, options.splits, log)
    given = [name.strip() for name in (options.names or "").split(",") if name.strip()]
    names = class_names(listed, given, fixed, options.ignore_unknown)
    outcome = write(listed, names, options.out, f"converted from {options.format}", log, options.link,
                    options.overwrite)
    outcome.unlisted = len(records) - len(listed)
    report(outcome, log, options.verbose)
    print(f"written: {options.out / 'data.yaml'}")
    if WHOLE in outcome.images:
        print(f"next: python -m data.split --source {options.out} --out DIR --ratios 8:1:1")
    return 1 if log.skipped or log.lost else 0


if __name__ == "__main__":
    sys.exit(guard(main))
