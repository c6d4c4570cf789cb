"""Class names: whether two lists of them mean the same classes, and how a name is shown on one line."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cfg.errors import UserError, nearest

SAME, UNKNOWN, REORDERED, OTHER = "same", "unknown", "reordered", "other"
PLACEHOLDERS = ("{}", "class{}", "class_{}")  # what we, ultralytics and its exports write where nobody gave names
SINGLE = "item"  # the class of a `single_cls` run
LONGEST = 40  # characters of a name in tables and images
LISTED = 3  # names in a message
JOINERS = "\u200c\u200d"  # not printable, yet parts of words and of emoji


@dataclass(frozen=True)
class Comparison:
    """How the class names of weights relate to those of a data set.

    Attributes:
        relation: SAME; UNKNOWN (as many, but one of both has placeholders for names); REORDERED (the same names in
            another order); OTHER.
        known: number of the weights' classes.
        by_name: for each class of the data, the weights' class of that name, None where they have none; for UNKNOWN
            names each class is taken for the one of its number.
        in_place: the same, but None also where that class has another number.
        difference: what differs, for a message; empty when nothing does.
    """

    relation: str
    known: int
    by_name: tuple[int | None, ...]
    in_place: tuple[int | None, ...]
    difference: str

    @property
    def agrees(self) -> bool:
        """Whether nothing says that a number means another class in the weights than in the data."""
        return self.relation in (SAME, UNKNOWN)


def compare(known: Mapping[int, str], wanted: Mapping[int, str]) -> Comparison:
    """Compare the names that weights were trained with (`known`) with a data set's (`wanted`), exactly and in order."""
    theirs, ours = ([str(names[index]) for index in sorted(names)] for names in (known, wanted))
    numbers = {name: index for index, name in enumerate(theirs) if theirs.count(name) == 1}
    by_name = tuple(numbers.get(name) for name in ours)
    relation = _relation(theirs, ours)
    if relation == UNKNOWN:
        by_name = tuple(range(len(ours)))
    in_place = tuple(source if source == index else None for index, source in enumerate(by_name))
    difference = "" if relation == SAME else _difference(theirs, ours)
    return Comparison(relation, len(theirs), by_name, in_place, difference)


def check_classes(weights: str, known: Mapping[int, str], data: str, wanted: Mapping[int, str], fix: str) -> str:
    """Return a note where the names do not tell whether weights and data agree, else nothing.

    Args:
        weights, data: what messages call them.
        known, wanted: their class names by index.
        fix: what the person can do, if they do not agree.

    Raises:
        UserError: other classes, or the same in another order.
    """
    found = compare(known, wanted)
    if found.agrees:
        return unknown_note(weights, found)
    got = "the same in another order" if found.relation == REORDERED else "others"
    raise UserError(f"{data}: expected the class names of {weights}, got {got} ({found.difference}); {fix}")


def unknown_note(weights: str, found: Comparison) -> str:
    """The message where names are placeholders: only their number can be compared."""
    if found.relation != UNKNOWN:
        return ""
    return f"class names of {weights} cannot be compared ({found.difference}): classes are taken by their numbers"


def is_placeholder(names: Mapping[int, str]) -> bool:
    """Whether nobody named these classes: `0`, `class_0` ... by their indices, or the one class of a `single_cls` run."""
    values = [str(names[index]) for index in sorted(names)]
    return values == [SINGLE] or any(values == [form.format(i) for i in range(len(values))] for form in PLACEHOLDERS)


def nearest_name(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name that is the same but for case, blanks or dashes, else the closest; or nothing."""
    known = list(known)
    same = next((other for other in known if _folded(other) == _folded(name)), None)
    return f"; did you mean {_quoted(same, name)}?" if same is not None else nearest(name, known)


def shown(name: str) -> str:
    """A name as text of one line of at most `LONGEST` characters, with what cannot be printed as its escape."""
    text = "".join(c if c.isprintable() or c in JOINERS else ascii(c)[1:-1] for c in str(name))
    half = (LONGEST - 3) // 2
    text = text if len(text) <= LONGEST else f"{text[:LONGEST - 3 - half]}...{text[-half:]}"
    return text if text.strip() else "(no name)"


def _relation(theirs: list[str], ours: list[str]) -> str:
    if theirs == ours:
        return SAME
    if sorted(theirs) == sorted(ours) and len(set(ours)) == len(ours):
        return REORDERED
    unnamed = is_placeholder(dict(enumerate(theirs))) or is_placeholder(dict(enumerate(ours)))
    return UNKNOWN if unnamed and len(theirs) == len(ours) else OTHER


def _difference(theirs: list[str], ours: list[str]) -> str:
    if len(theirs) != len(ours):
        extra, missing = ([n for n in a if n not in b] for a, b in ((ours, theirs), (theirs, ours)))
        text = f"{len(ours)} classes in the data, {len(theirs)} in the model"
        return text + _only("data", extra) + _only("model", missing)
    differing = [pair for pair in enumerate(zip(ours, theirs)) if pair[1][0] != pair[1][1]]
    index, (mine, other) = differing[0]
    more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
    text = f"class {index} is {_quoted(mine, other)} in the data, {_quoted(other, mine)} in the model{more}"
    alike = _folded(mine) == _folded(other)
    return f"{text}: they differ by case, blanks or dashes; did you mean {_quoted(other, mine)}?" if alike else text


def _only(where: str, names: list[str]) -> str:
    dots = " ..." if len(names) > LISTED else ""
    return f"; only the {where} has {', '.join(_quoted(n) for n in names[:LISTED])}{dots}" if names else ""


def _quoted(name: str, beside: str | None = None) -> str:
    """A name in quotes; with the numbers of its characters where it would look the same as the one `beside` it."""
    pair = (name, name if beside is None else beside)
    alike = any(len({look(text) for text in pair}) == 1 for look in (shown, _normal))
    return ascii(name) if alike and pair[0] != pair[1] else f"'{shown(name)}'"


def _normal(name: str) -> str:
    return unicodedata.normalize("NFKC", name)


def _folded(name: str) -> str:
    """A name without what people take for the same: case, blanks, dashes, widths of characters."""
    return "".join(_normal(name).casefold().replace("_", " ").replace("-", " ").split())
