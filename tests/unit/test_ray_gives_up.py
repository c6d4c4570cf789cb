"""Where Ray gives up, a job goes on with the shards that are left, as long as some get done."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("pyarrow")

from engine.shards import cluster


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


RAY = SimpleNamespace(exceptions=SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError))


def run(monkeypatch: pytest.MonkeyPatch, error: Exception, each: int, times: int) -> tuple[list[int], list[list[int]]]:
    """Shards that were done, and those of each start; `each` are done before `error`, which comes so many times."""
    done, starts = [], []

    def results(ray, options, job, left, actors):
        starts.append(left)
        for number, shard in enumerate(left):
            if len(starts) <= times and number == each:
                raise error
            done.append(shard)
            yield {"shard": shard}

    monkeypatch.setattr(cluster, "results", results)
    monkeypatch.setattr(cluster, "left_of", lambda job: sorted(set(range(5)) - set(done)))
    for _ in cluster.persistent(RAY, None, None, None):
        pass
    return done, starts


def test_it_goes_on_with_what_is_left(monkeypatch, capsys) -> None:
    done, starts = run(monkeypatch, RayError("a node died"), each=2, times=2)
    assert done == [0, 1, 2, 3, 4] and starts == [[0, 1, 2, 3, 4], [2, 3, 4], [4]][: len(starts)]
    assert "Ray gave up (RayError); going on with 3 shards" in capsys.readouterr().out


def test_it_ends_where_nothing_gets_done(monkeypatch) -> None:
    with pytest.raises(RayError, match="a node died"):
        run(monkeypatch, RayError("a node died"), each=0, times=9)


def test_a_bug_of_ours_is_not_repeated(monkeypatch) -> None:
    with pytest.raises(RayTaskError):
        run(monkeypatch, RayTaskError("TypeError in a worker"), each=2, times=1)
