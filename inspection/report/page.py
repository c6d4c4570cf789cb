"""Writes a report: one HTML file with up to `INLINE` images, and further pages of images beside it where there are more."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cfg.class_names import shown
from inspection.binomial import interval
from inspection.plan import Plan
from inspection.plan_file import rules_digest
from inspection.report import charts, statistics
from inspection.report.content import GROUPS, Content, Seen
from inspection.report.thumbnails import Thumbnails
from inspection.rules import Code, Found

INLINE = 200  # images inside the file, and on each further page
MOST_BOXES = 60  # drawn on an image
MOST_SUSPECTS, MOST_SKIPPED = 50, 50
TEMPLATES = Path(__file__).parent / "templates"


def write_report(path: Path, content: Content, thumbnails: Thumbnails) -> int:
    """Write ``path`` (report.html) and, for more than `INLINE` images, pages in the folder of the thumbnails.

    Returns:
        How many pages there are.

    Raises:
        OSError: the disk refuses.
    """
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "filter.js"))
    shared: dict[str, Any] = {"title": content.title, "style": style, "script": script, "script_hash": _hash(script), "groups": GROUPS}
    shown_pictures = [p for group in content.groups.values() for p in group]
    pages = [shown_pictures[start : start + INLINE] for start in range(0, len(shown_pictures), INLINE)] or [[]]
    shared["index"] = _index(pages)
    for number, pictures in enumerate(pages, 1):
        first = number == 1
        given: dict[str, Any] = {"cards": _cards(pictures, content, thumbnails, first), "page": number}
        given["pages"] = _links(number, len(pages), path, thumbnails)
        given["not_shown"] = content.not_shown
        given["group_counts"] = Counter(picture.group for picture in shown_pictures)
        given["classes"] = _classes(shown_pictures, content.names)
        given |= _overview(content) if first else {"report": f"../{path.name}"}
        place = path if first else thumbnails.folder / f"page-{number}.html"
        text = environment.get_template("report.html" if first else "pictures.html").render(**shared, **given)
        place.write_text(text, encoding="utf-8", errors="backslashreplace")
    thumbnails.close()
    return len(pages)


def _hash(script: str) -> str:
    """What a page's content policy calls its only script: whatever got into the page, nothing else runs."""
    return f"sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _links(here: int, pages: int, path: Path, thumbnails: Thumbnails) -> list[tuple[int, str]]:
    """(number, address) of all pages, as seen from page `here`."""
    folder = f"{thumbnails.folder.name}/" if here == 1 else ""
    first = "" if here == 1 else "../"
    return [(n, f"{first}{path.name}" if n == 1 else f"{folder}page-{n}.html") for n in range(1, pages + 1)]


def _index(pages: Sequence[Sequence[Seen]]) -> list[list[Any]]:
    """[page, group, classes, how many images]: what the filters count on other pages."""
    counts = Counter((number, p.group, tuple(_class_set(p))) for number, pictures in enumerate(pages, 1) for p in pictures)
    return [[*key, count] for key, count in counts.items()]


def _class_set(picture: Seen) -> list[int]:
    labels = picture.labels.classes.tolist() if picture.labels is not None else []
    return sorted({int(index) for index in picture.found.classes.tolist() + labels})


def _classes(pictures: Sequence[Seen], names: Sequence[str]) -> list[tuple[int, str]]:
    return [(index, shown(names[index])) for index in sorted({i for p in pictures for i in _class_set(p)})]


def _cards(pictures: Sequence[Seen], content: Content, thumbnails: Thumbnails, inline: bool) -> Iterator[dict[str, Any]]:
    names = content.names
    for picture in pictures:
        address = ""
        if picture.thumbnail:
            address = thumbnails.take(picture.thumbnail) if inline else picture.thumbnail
        order = picture.found.scores.argsort()[::-1][:MOST_BOXES]
        counting = set(picture.defects.tolist())
        boxes = [_box(picture, i, names) | {"counts": i in counting} for i in order.tolist()]
        labels = []
        if picture.labels is not None:
            labels = [_label(picture.labels, i, names) for i in range(min(len(picture.labels.classes), MOST_BOXES))]
        yield {
            "group": picture.group, "title": GROUPS[picture.group][0], "name": picture.name, "address": address,
            "width": picture.width, "height": picture.height, "boxes": boxes, "labels": labels, "classes": _class_set(picture),
            "rule": picture.verdict.rule if picture.verdict else "", "labelled": picture.labels is not None,
        }  # fmt: skip


def _box(picture: Seen, index: int, names: Sequence[str]) -> dict[str, Any]:
    found = picture.found
    return _place(found.boxes_xyxy[index]) | {"name": shown(names[int(found.classes[index])]), "score": float(found.scores[index])}


def _label(labels: Found, index: int, names: Sequence[str]) -> dict[str, Any]:
    return _place(labels.boxes_xyxy[index]) | {"name": shown(names[int(labels.classes[index])])}


def _place(box_xyxy: Any) -> dict[str, float]:
    x1, y1, x2, y2 = (float(value) for value in box_xyxy)
    return {"x": x1, "y": y1, "w": max(x2 - x1, 0.0), "h": max(y2 - y1, 0.0)}


def _overview(content: Content) -> dict[str, Any]:
    seen = content.seen
    p_chart, u_chart = statistics.p_chart(seen), statistics.u_chart(seen)
    rows = statistics.pareto(seen, len(content.names))
    return {
        "promise": content.promise, "facts": content.facts, "decided": content.plan is not None, "images": len(seen),
        "tiles": _tiles(content), "rates": _rates(content), "defects": sum(count for _, count, _ in rows),
        "pareto": charts.pareto_chart(rows, content.names) if rows else None,
        "density": charts.density_chart(statistics.density(seen)) if rows else None,
        "p_chart": charts.control_chart(p_chart, True, "Share of NG images") if p_chart else None,
        "u_chart": charts.control_chart(u_chart, False, "Defects per image") if u_chart else None,
        "outside": (int(p_chart.outside.sum()) if p_chart else 0, int(u_chart.outside.sum()) if u_chart else 0),
        "scores": charts.score_chart(statistics.histograms(seen), _limits(content.plan)) if seen else None,
        "by_label": any(p.labelled_ng is not None for p in seen), "thresholds": _limits(content.plan),
        "suspects": content.suspects[:MOST_SUSPECTS], "more_suspects": max(0, len(content.suspects) - MOST_SUSPECTS),
        "skipped": content.skipped[:MOST_SKIPPED], "more_skipped": max(0, len(content.skipped) - MOST_SKIPPED) + content.more_skipped,
    }  # fmt: skip


def _tiles(content: Content) -> list[tuple[str, str, int]]:
    """(kind, title, count) of the figures at the top."""
    counts = Counter(picture.verdict.code for picture in content.seen if picture.verdict)
    if content.plan is not None:
        codes = [(Code.OK, "ok", "OK"), (Code.NG, "ng", "NG"), (Code.REVIEW, "review", "Review")]
        codes.append((Code.UNDEFINED, "undefined", "Undefined"))
        return [(kind, title, counts[code]) for code, kind, title in codes if counts[code] or code in (Code.OK, Code.NG)]
    return [(key, title, content.counts[key]) for key, (title, _) in GROUPS.items() if content.counts[key]]


def _rates(content: Content) -> list[tuple[str, str]]:
    """Escapes and overkills in words, with 95 % intervals; only with a plan and labels."""
    if content.plan is None:
        return []
    told = []
    for truth, key, what, of in ((True, "escape", "Escapes", "NG"), (False, "overkill", "Overkill", "OK")):
        units = sum(picture.labelled_ng is truth for picture in content.seen)
        if units:
            count = content.counts[key]
            low, high = interval(count, units, 0.95)
            told.append((what, f"{count:,} of {units:,} {of} images ({100 * count / units:.2f} %; 95 % interval "
                               f"{100 * low:.2f} to {100 * high:.2f} %)"))  # fmt: skip
    return told


def _limits(plan: Plan | None) -> list[tuple[str, float]]:
    """(name, score) of the thresholds: one line where classes share one."""
    if plan is None:
        return []
    pairs = [(shown(name), float(t)) for name, t in zip(plan.names, plan.thresholds, strict=True) if t <= 1]
    values = {value for _, value in pairs}
    return [("all classes", values.pop())] if len(values) == 1 else pairs


def promise_lines(plan: Plan, doubts: Sequence[str] = ()) -> list[str]:
    """What a plan promises, in sentences; what it rests on. Where it promises nothing, why.

    Args:
        doubts: why the promise does not hold here.
    """
    made = plan.promise
    if made is None:
        return ["This plan was written by hand: no escape rate is promised."]
    changed = ["The plan was changed by hand since its thresholds were chosen."] if made.rules != rules_digest(plan) else []
    if changed or doubts:
        return ["No escape rate is promised here.", *changed, *doubts]
    rests = f"{made.ng:,} NG and {made.ok:,} OK {made.unit}s"
    lines = [f"With {100 * made.confidence:g} % confidence, at most {100 * made.max_escape:g} % of NG {made.unit}s pass as OK.",
             f"Shown on {rests}: {made.misses} missed, up to {made.misses_allowed} allowed."]  # fmt: skip
    low, high = made.overkill_interval
    lines.append(f"Overkill there: {made.overkills} of {made.ok:,} ({100 * low:.2f} to {100 * high:.2f} %); "
                 f"{made.reviews} left to a person.")  # fmt: skip
    lines.append("It holds while production shows the same mix of defects, and images are independent of each other and were "
                 "used neither to train nor to choose the weights.")  # fmt: skip
    return lines
