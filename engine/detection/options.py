"""The options of a detection run."""

from __future__ import annotations

from dataclasses import dataclass

CONF, IOU = 0.25, 0.45  # without a decision plan that says otherwise


@dataclass
class DetectOptions:
    """The options of a detection run; the fields are detect.py's arguments."""

    weights: str
    source: list[str]
    imgsz: list[int] | None = None
    conf: float | None = None
    iou: float | None = None
    max_det: int = 300
    device: str = ""
    batch: int | None = None
    classes: list[str] | None = None
    agnostic_nms: bool = False
    precision: str = "fp32"
    save_txt: bool = False
    save_conf: bool = False
    save_json: bool = False
    save_csv: bool = False
    save_coco: bool = False
    report: bool = False
    heatmap: str | None = None
    draw: bool = True
    line_width: int | None = None
    project: str = "runs/detect"
    name: str = "exp"
    exist_ok: bool = False
    view: bool = False
    reconnect: float = 30.0
    decision: str | None = None
    no_decision: bool = False
    sort_into: str | None = None
    sort_copy: bool = False
    tile: int | None = None
    overlap: float | None = None
