"""A published table, trained row by row, beside the published numbers."""

from __future__ import annotations

import json

import pytest
import yaml
from kd_runs import COMMON, commands, main, place  # noqa: F401  (two of them are fixtures)
from tiny import write_model

from cfg import UserError


@pytest.fixture(scope="module")
def table(place) -> str:
    """Two students, the second also with labels as its teacher, and a row that nothing here trains."""
    write_model(place / "wide.yaml", width=16)
    rows = [
        {"name": "Narrow", "cfg": str(place / "model.yaml"), "published": {"mAP50": 90.0, "mAP50-95": 50.0}},
        {"name": "+ Wide", "cfg": str(place / "wide.yaml"), "distill": "lgd", "published": {"mAP50-95": 51.5}},
        {"name": "Other", "missing": "another program", "published": {"mAP50-95": 40.0}},
    ]
    path = place / "table.yaml"
    content = {"title": "width", "source": "A paper, Table 1", "data": "its data", "arguments": ["--adaptive", "none"]}
    path.write_text(yaml.safe_dump(content | {"rows": rows}))
    return str(path)


def test_rows_are_trained_and_told_beside_the_published(place, table, tmp_path, commands, monkeypatch):
    given = ["--ablation", table, "--data", str(place / "data.yaml"), "--seeds", "2", "--out", str(tmp_path), *COMMON]
    assert main(monkeypatch, given) == 0
    trained = [c for c in commands if c[0].endswith("train.py")]
    models = [c[c.index("--cfg") + 1] for c in trained]
    assert models == [str(place / "model.yaml"), str(place / "wide.yaml")] * 2
    assert all(c[c.index("--adaptive") + 1] == "none" for c in trained)
    assert [("--distill" in c) for c in trained] == [False, True] * 2
    result = json.loads((tmp_path / "results.json").read_text())
    narrow, wide = result["rows"]
    assert narrow["parameters"] < wide["parameters"] and wide["against"] == result["baseline"] == "Narrow"
    text = (tmp_path / "results.md").read_text()
    assert "## A paper, Table 1: width" in text and "| + Wide |" in text and "* Other: another program" in text
    ours = result["ablation"]["rows"][1]
    assert ours["difference"]["mAP50-95"]["published"] == 1.5
    assert ours["ours"]["mAP50-95"][0] == pytest.approx(100 * wide["mAP50-95"])


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--cfg", "s-model.yaml"], "expected one of them"),
        (["--methods", "none"], "leave --methods and --baseline out"),
        (["--epoch", "3"], "did you mean 'epochs'"),
    ],
)
def test_what_a_table_cannot_be_asked_is_refused(place, table, tmp_path, monkeypatch, more, told):
    given = ["--ablation", table, "--data", str(place / "data.yaml"), "--out", str(tmp_path / "out"), *COMMON, *more]
    with pytest.raises(UserError, match=told):
        main(monkeypatch, given)
    assert not (tmp_path / "out").exists()
