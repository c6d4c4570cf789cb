"""Quick imports: what is made inside is out of the collector's sight, and the collector works again after them."""

from __future__ import annotations

import gc
import sys
import weakref
from types import ModuleType

import pytest

from engine.startup import quick_imports


class Ring:
    """An object that only the collector can free."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def thaw():
    yield
    gc.unfreeze()


def test_what_is_made_inside_is_left_alone_and_what_comes_later_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    before = gc.get_freeze_count()
    with quick_imports():
        assert not gc.isenabled()
        monkeypatch.setitem(sys.modules, "tandem_large_library", ModuleType("tandem_large_library"))
        inside = weakref.ref(Ring())
    assert gc.isenabled() and gc.get_freeze_count() > before
    later = weakref.ref(Ring())
    gc.collect()
    assert inside() is not None and later() is None


def test_the_collector_is_as_before_also_after_an_error() -> None:
    with pytest.raises(ImportError), quick_imports():
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    try:
        with quick_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.long
def test_nothing_is_kept_when_nothing_was_imported() -> None:
    with quick_imports():
        inside = weakref.ref(Ring())
    gc.collect()
    assert inside() is None
