"""What the parts of the service say to each other: an image with its outcome, and who hands it on or brings it.

Names in JSON are those of OPC 40100-1 (MeasId, PartId, RecipeId, ProductId, CreationTime) and OPC 40001-101 (ResultEvaluation).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from data.decode import Unreadable
from inspection.rules import Code


@dataclass(frozen=True)
class Box:
    """One box that was found: corners in pixels of the image, score from 0 to 1, class index and name."""

    x1: float
    y1: float
    x2: float
    y2: float
    score: float
    class_index: int
    name: str

    def as_json(self) -> dict[str, Any]:
        """JSON-ready: `Class ClassIndex Score Box`, the last as [x1, y1, x2, y2]."""
        corners = [round(float(value), 2) for value in (self.x1, self.y1, self.x2, self.y2)]
        return {"Class": self.name, "ClassIndex": int(self.class_index), "Score": round(float(self.score), 5), "Box": corners}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Box:
        """The box that `as_json` gave."""
        x1, y1, x2, y2 = told["Box"]
        return cls(x1, y1, x2, y2, told["Score"], told["ClassIndex"], told["Class"])


@dataclass(frozen=True)
class Inspected:
    """One image with its outcome: what `POST /inspect` answers and what sinks publish.

    Attributes:
        meas_id: unique to this image.
        time: when it was accepted, ISO 8601 in UTC.
        source: `http`, or the name of a camera or file.
        part_id, recipe_id, product_id: as the sender gave them, empty where not.
        verdict: UNDEFINED 0, OK 1, NG 2, REVIEW 3; UNDEFINED after any fault, never OK.
        rule: the rule that decided, or why nothing could be decided.
        score: of the class that decided, 0 without one.
        boxes: what was found, by falling score.
        width, height: of the image in pixels, 0 where it could not be read.
        latency_ms: from acceptance to this outcome.
    """

    meas_id: str
    time: str
    source: str
    part_id: str
    recipe_id: str
    product_id: str
    verdict: Code
    rule: str
    score: float
    boxes: tuple[Box, ...]
    width: int
    height: int
    latency_ms: float

    def as_json(self, boxes: bool = True) -> dict[str, Any]:
        """JSON-ready, with `Verdict` as a word and `ResultEvaluation` as its number.

        Args:
            boxes: with `Boxes`, which take most of the time.
        """
        return {
            "MeasId": self.meas_id,
            "PartId": self.part_id,
            "RecipeId": self.recipe_id,
            "ProductId": self.product_id,
            "CreationTime": self.time,
            "Source": self.source,
            "Verdict": self.verdict.name,
            "ResultEvaluation": int(self.verdict),
            "Rule": self.rule,
            "Score": round(float(self.score), 5),
            **({"Boxes": [box.as_json() for box in self.boxes]} if boxes else {}),
            "Width": int(self.width),
            "Height": int(self.height),
            "LatencyMs": round(float(self.latency_ms), 2),
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Inspected:
        """The outcome that `as_json` gave."""
        return cls(
            meas_id=told["MeasId"],
            time=told["CreationTime"],
            source=told["Source"],
            part_id=told["PartId"],
            recipe_id=told["RecipeId"],
            product_id=told["ProductId"],
            verdict=Code[told["Verdict"]],
            rule=told["Rule"],
            score=told["Score"],
            boxes=tuple(Box.from_json(box) for box in told["Boxes"]),
            width=told["Width"],
            height=told["Height"],
            latency_ms=told["LatencyMs"],
        )


class Sink(Protocol):
    """Hands outcomes on. Has a thread of its own: `publish` never waits and never raises.

    `keeps`: it delivers every outcome, also one of an earlier service; else the latest alone, and an old one would pass for a new one.
    """

    name: str
    keeps: bool

    def publish(self, event: Inspected) -> None:
        """Take one outcome; deliver it later."""

    def healthy(self) -> bool:
        """Whether the other side can be reached at present."""

    def close(self, timeout: float) -> None:
        """Deliver what is left for at most `timeout` seconds, then end."""


# The bytes of an image file, pixels (H, W, 3) BGR uint8, or why there are none, which is UNDEFINED then.
Picture = bytes | np.ndarray | Unreadable
Submit = Callable[[Picture, str], Inspected]  # the image and the source's name


class Camera(Protocol):
    """Brings images. `run` is called on a thread of its own."""

    name: str

    def run(self, submit: Submit, stop: threading.Event) -> None:
        """Submit images, each of which waits for its outcome, until `stop` is set."""

    def healthy(self) -> bool:
        """Whether images come at present."""
