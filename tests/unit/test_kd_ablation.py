"""Published ablations: every table can be planned, and ours stands beside the published numbers in their units."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from benchmarks.harness.ablation import UNITS, beside_ours, load, methods_of
from benchmarks.harness.plan import Question, check_arguments
from benchmarks.harness.published import agreement, beside
from cfg import UserError, find
from engine.settings import known_names

TABLES = sorted(path.stem for path in (Path(find("ablations", "ts-3"))).parent.glob("*.yaml"))


def question(teacher: str | None = "t.pt") -> Question:
    return Question("", "data.yaml", teacher, None, ())


def test_the_tables_of_both_papers_are_there() -> None:
    assert {*(f"ts-{n}" for n in (3, 4, 5, 6, 7)), *(f"sdd-{n}" for n in (4, 5, 6))} <= set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_drifted(name: str) -> None:
    """Each row names a model and a distillation that exist; its numbers are in the units said."""
    table = load(f"tables/{name}")
    assert table == load(name) and table.title and table.source and table.data
    check_arguments(list(table.arguments), known_names())
    methods = methods_of(table, question())
    assert [m.label for m in methods] == [row.name for row in table.rows if row.cfg] and len(methods) > 1
    for method in methods:
        assert find("models", method.cfg).is_file()
        assert method.arguments[:2] == ["--weights", "none"]  # rows with and without shipped weights would start unequal
        if "--distill" in method.arguments:
            assert find("distill", method.arguments[method.arguments.index("--distill") + 1]).is_file()
    for row in table.rows:
        assert row.published and all(value <= 1 for metric, value in row.published.items() if metric == "F1")
        assert all(1 < value < 100 for metric, value in row.published.items() if UNITS[metric] == 100)


def test_a_row_that_learns_from_a_teacher_needs_one() -> None:
    assert "--teacher" in methods_of(load("ts-7"), question())[1].arguments
    with pytest.raises(UserError, match="--ablation: row 'S-model with KD' of .*; use --teacher"):
        methods_of(load("ts-7"), question(None))
    assert len(methods_of(load("sdd-6"), question(None))) == 11  # teachers of labels need none


ROWS = [
    {"name": "a", "cfg": "m.yaml", "published": {"mAP50": 97.2, "mAP50-95": 56.6, "F1": 0.97}},
    {"name": "b", "cfg": "m.yaml", "published": {"mAP50": 97.83, "mAP50-95": 56.9}},
    {"name": "c", "missing": "another program", "published": {"mAP50": 90}},
]


def written(folder: Path, rows: list[dict], **more) -> str:
    path = folder / "table.yaml"
    path.write_text(yaml.safe_dump({"title": "t", "source": "s", "data": "d", "rows": rows} | more, sort_keys=False))
    return str(path)


@pytest.mark.parametrize(
    ("rows", "more", "told"),
    [
        (ROWS, {"titel": "t"}, "unknown key 'titel'; did you mean 'title'"),
        ([], {}, "expected 'rows' to be a list"),
        ([{"name": "a"}], {}, "row 'a': expected a name, and either a cfg or what is missing"),
        ([ROWS[0] | {"missing": "x"}], {}, "either a cfg or what is missing"),
        ([ROWS[0] | {"published": {"mAP": 3}}], {}, "unknown score 'mAP'; did you mean 'mAP50'"),
        ([ROWS[0] | {"published": {"mAP50": "97,2"}}], {}, "expected mAP50 to be a number, got '97,2'"),
        ([ROWS[0] | {"published": [1, 2]}], {}, "row a: expected 'published' to be scores"),
        ([ROWS[0] | {"cfg": ["m.yaml"]}], {}, "row a: expected 'cfg' to be a text, got \\['m.yaml'\\]"),
        ([ROWS[0], ROWS[0]], {}, "expected names that differ"),
        (ROWS, {"arguments": 5}, "expected 'arguments' to be a list"),
        (ROWS, {"arguments": "--kd-share None"}, "expected 'arguments' to be a list"),
        (ROWS, {"notes": "hello"}, "expected 'notes' to be a list"),
        (ROWS, {"against": "c"}, "'against' to be a row with a cfg, got 'c'"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, rows, more, told) -> None:
    with pytest.raises(UserError, match=told):
        load(written(tmp_path, rows, **more))
    with pytest.raises(UserError, match="did you mean 'ts-3"):
        load("tables/ts-33")


def compared(verdict: str, mean: float) -> tuple[dict, dict]:
    """What a comparison of a and b found, two seeds each."""
    scores = {"a": (0.40, 0.42), "b": (0.40 + mean, 0.42 + mean)}
    records = {
        (label, seed): {"metrics": {"mAP50": value, "mAP50-95": value, "F1": 0.5}, "model": {"size_mb": 25.0}}
        for label, pair in scores.items() for seed, value in enumerate(pair)
    }  # fmt: skip
    rows = [{"method": label, "seeds": [0, 1], "errors": []} for label in scores]
    rows[1] |= {"verdict": verdict, "difference": {m: {"mean": mean} for m in ("mAP50", "mAP50-95")}}
    return {"rows": rows}, records


def test_ours_beside_the_published(tmp_path) -> None:
    table = load(written(tmp_path, ROWS))
    assert table.against == "a"
    content = beside_ours(table, *compared("HELPS", 0.1))
    a, b, c = content["rows"]
    assert a["ours"]["mAP50"] == pytest.approx([41, 2**0.5]) and a["ours"]["F1"] == [0.5, 0] and a["difference"] == {}
    assert b["difference"]["mAP50"] == {"published": 0.63, "ours": pytest.approx(10)}
    assert b["difference"]["mAP50-95"]["published"] == 0.3 and c["ours"] == {}
    text = "\n".join(beside(content))
    assert "| a | 97.2 / 41.0 ± 1.4 | 56.6 / 41.0 ± 1.4 | 0.97 / 0.50 ± 0.00 |" in text
    assert "| b | +0.63 | +10.00 | +0.3 | +10.00 | agrees |" in text
    assert "| c | 90 / not trained |" in text and "* c: another program" in text and "do not compare" in text


@pytest.mark.parametrize(
    ("verdict", "mean", "said"),
    [("HELPS", 0.1, "agrees"), ("HURTS", -0.1, "contradicts"), ("NOT SHOWN", 0.1, "not shown")],
)
def test_a_direction_is_claimed_only_beyond_chance(tmp_path, verdict, mean, said) -> None:
    content = beside_ours(load(written(tmp_path, ROWS)), *compared(verdict, mean))
    assert [agreement(row) for row in content["rows"]] == ["-", said, "-"]


def test_a_row_whose_runs_failed_says_so(tmp_path) -> None:
    result, records = compared("HELPS", 0.1)
    result["rows"][1] = {"method": "b", "seeds": [], "errors": ["seed 0: out of memory"]}
    text = "\n".join(beside(beside_ours(load(written(tmp_path, ROWS)), result, records)))
    assert "| b | 97.83 / failed | 56.9 / failed | - / failed |" in text and "| b | +0.63 | - | +0.3 | - | - |" in text
