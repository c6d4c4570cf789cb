"""The report as a browser shows it: nothing of the network, nothing of a name is run, filters, pictures, pages."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from reports import HOSTILE, write

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
PROBE = """
document.querySelectorAll(".picture img").forEach((picture) => { picture.loading = "eager"; });
addEventListener("load", () => {
  const pictures = [...document.querySelectorAll(".picture img")];
  const loaded = pictures.filter((picture) => picture.complete && picture.naturalWidth > 0).length;
  const visible = () => [...document.querySelectorAll(".card")].filter((card) => card.offsetParent !== null);
  const all = visible().length;
  document.querySelector('[data-filter="review"]').click();
  const groups = [...new Set(visible().map((card) => card.dataset.group))].join();
  const review = visible().length;
  document.querySelector('[data-filter=""]').click();
  const search = document.getElementById("search");
  search.value = "SCRIPT"; search.dispatchEvent(new Event("input"));
  const named = visible().length;
  const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  document.body.dataset.probe = JSON.stringify({ loaded, pictures: pictures.length, all, groups, review, named, wide });
});
"""


class Addresses(HTMLParser):
    """Every address that a page names, and its elements."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "action", "data", "poster")]


def read(path: Path) -> tuple[str, Addresses]:
    text, parser = path.read_text(encoding="utf-8"), Addresses()
    parser.feed(text)
    return text, parser


def browse(page: Path, folder: Path, size: str = "1200,900", address: str = "") -> tuple[str, str]:
    """The page after its script has run, and what the browser's console said."""
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'browser'}", f"--window-size={size}",
               "--enable-logging=stderr", "--virtual-time-budget=8000", "--dump-dom", f"{page.as_uri()}{address}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def test_a_page_is_whole_and_names_are_text(tmp_path: Path) -> None:
    page = write(tmp_path / "run", 1000)
    text, parser = read(page)
    assert "http://" not in text and "https://" not in text and not any(a.startswith("//") for a in parser.addresses)
    inline = [a for a in parser.addresses if a.startswith("data:image/jpeg;base64,")]
    beside = {a for a in parser.addresses if not a.startswith("data:")}
    assert len(inline) == 200 and beside == {"report.html", "report-pictures/page-2.html"}
    assert HOSTILE not in text and parser.tags.count("script") == 2
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    further, more = read(tmp_path / "run/report-pictures/page-2.html")
    assert HOSTILE not in further
    pictures = [a for a in more.addresses if a.endswith(".jpg")]
    assert pictures and all((tmp_path / "run/report-pictures" / a).is_file() for a in pictures)
    assert len(list((tmp_path / "run/report-pictures").glob("*.jpg"))) == len(pictures)  # those taken in are gone
    assert len(inline) + len(pictures) == int(re.search(r"All <b>(\d+)</b>", text)[1])


def test_escapes_come_first_and_figures_agree(tmp_path: Path) -> None:
    text, _ = read(write(tmp_path, 300))
    groups = re.findall(r'data-group="(\w+)"', text)
    assert groups == sorted(groups, key=["escape", "overkill", "review", "ng"].index) and groups[0] == "escape"
    escapes, of = re.search(r"<dt>Escapes</dt><dd>(\d+) of (\d+) NG", text).groups()
    assert groups.count("escape") == int(escapes) > 0 and int(of) > 50
    assert "at most 1 % of NG images pass as OK" in text and "p-chart" in text and "u-chart" in text


def test_without_plan_or_labels_it_shows_what_there_is(tmp_path: Path) -> None:
    text, _ = read(write(tmp_path, 60, decided=False, labelled=False))
    assert "No decision plan" in text and "<dt>Escapes" not in text and 'data-group="found"' in text and "Labels:" not in text
    empty, _ = read(write(tmp_path / "none", 0, decided=False, labelled=False))
    assert "No defects." in empty and '<article class="card"' not in empty


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt install chromium")
@pytest.mark.parametrize("size", ["1400,900", "500,900"])  # headless Chromium has no narrower window
def test_in_a_browser(tmp_path: Path, size: str) -> None:
    page = write(tmp_path, 300)
    text = page.read_text(encoding="utf-8")
    head, script = text.rsplit("<script>", 1)
    script = script.split("</script>")[0]
    named = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"sha256-{named}" in head  # the policy lets the page's own script run, and no other
    probed = base64.b64encode(hashlib.sha256((script + PROBE).encode()).digest()).decode()
    page.write_text(text.replace(named, probed).replace(script, script + PROBE), encoding="utf-8")
    shown, console = browse(page, tmp_path, size)
    assert not console
    told = json.loads(html.unescape(re.search(r'data-probe="([^"]*)"', shown)[1]))
    cards = text.count('<article class="card"')
    assert told["all"] == cards == told["pictures"] == told["loaded"] > 50
    assert told["groups"] == "review" and told["review"] == text.count('data-group="review"') > 0
    assert told["named"] == len(re.findall(r'data-name="[^"]*&lt;script&gt;', text)) and not told["wide"]


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt install chromium")
def test_filters_go_along_to_further_pages(tmp_path: Path) -> None:
    write(tmp_path, 1000)
    page = tmp_path / "report-pictures/page-2.html"
    shown, console = browse(page, tmp_path, address="#group=ng&class=1")
    assert not console
    cards = re.findall(r'<article class="card" data-group="(\w+)" data-classes="([\d ]*)"[^>]*?( hidden="")?>', shown)
    assert cards and all(bool(hidden) == (group != "ng" or "1" not in classes.split()) for group, classes, hidden in cards)
    here = sum(not hidden for *_, hidden in cards)
    assert re.search(rf'data-page="2"[^>]*>2<small>{here}</small>', shown) and "../report.html#group=ng&amp;class=1" in shown
