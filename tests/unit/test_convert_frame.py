"""The image that was annotated and the one that is there: EXIF orientation, and sizes that differ."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from converting import ROW, coco, convert, labelme, picture, put, voc
from PIL import Image

from data.convert.base import Annotation, Log
from data.convert.frame import fit

SEEN = (60, 40)  # width, height of the image as it is seen
MARK = (5, 10, 20, 18)  # x1 y1 x2 y2 of a white rectangle in it


def turned(path: Path, orientation: int) -> Path:
    """Write a PNG that shows MARK on SEEN once its EXIF orientation is applied, whatever is stored."""
    seen = np.zeros((SEEN[1], SEEN[0]), np.uint8)
    seen[MARK[1]:MARK[3], MARK[0]:MARK[2]] = 255
    back = {1: seen, 2: seen[:, ::-1], 3: seen[::-1, ::-1], 4: seen[::-1], 5: seen.T, 6: np.rot90(seen),
            7: seen[::-1, ::-1].T, 8: np.rot90(seen, 3)}[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(back)).save(path, exif=exif)
    return path


def box_of(pixels: np.ndarray) -> tuple:
    """Return x1 y1 x2 y2 of what is white."""
    ys, xs = np.nonzero(pixels > 127)
    return xs.min(), ys.min(), xs.max() + 1, ys.max() + 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("as_stored", [False, True])
def test_orientation(tmp_path, orientation, as_stored):
    """Boxes drawn on the stored image or on the turned one end where the mark is seen; the size tells which."""
    path = turned(tmp_path / "a.png", orientation)
    stored = np.asarray(Image.open(path))
    swaps = orientation in (5, 6, 7, 8)
    if as_stored and not swaps:
        return  # the sizes are equal: nothing can tell
    drawn, size = (box_of(stored), stored.shape[::-1]) if as_stored else (MARK, SEEN)
    log = Log()
    [(_, box)], width, height = fit(Annotation(Path("a.xml"), [("pit", drawn)], size=size), path, path, log)
    assert (width, height) == SEEN and tuple(box) == MARK
    said = list(log.mended)
    undecided = ["images turned by EXIF: boxes taken as drawn on the turned image"] if orientation in (2, 3, 4) else []
    assert said == (["boxes turned as the image is by EXIF"] if as_stored else undecided)


@pytest.mark.parametrize(("orientation", "size"), [(6, None), (3, None), (6, (50, 50))])
def test_an_orientation_that_nothing_decides_is_said(tmp_path, orientation, size):
    path = turned(tmp_path / "a.png", orientation)
    if size:
        image = Image.new("L", size)
        exif = Image.Exif()
        exif[274] = orientation
        image.save(path, exif=exif)
    log = Log()
    [(_, box)], _, _ = fit(Annotation(Path("a.xml"), [("pit", MARK)], size=size), path, path, log)
    assert box == MARK and list(log.mended) == ["images turned by EXIF: boxes taken as drawn on the turned image"]


# size that was written, box, the box in the image of 100 x 50 (None: left out), what is said
SIZES = {
    "half": ((200, 100), (20, 20, 60, 40), ROW, "boxes scaled to the size of the image: 1"),
    "double": ((50, 25), (5, 5, 15, 10), ROW, "boxes scaled to the size of the image: 1"),
    "rounded": ((67, 33), (6.7, 6.6, 20.1, 13.2), ROW, "boxes scaled"),
    "stale": ((640, 480), (10, 10, 30, 20), ROW, "sizes that differ from the image's: boxes taken as written: 1"),
    "too-small-for-its-own-box": ((20, 10), (10, 10, 30, 20), ROW, "boxes taken as written: 1"),
    "sides-swapped": ((50, 100), (10, 10, 30, 20), ROW, "boxes taken as written: 1"),
    "turned-by-hand": ((50, 100), (10, 60, 30, 90), None,
                       "annotated as 50 x 100, the image is 100 x 50, and boxes lie outside"),
    "cropped": ((640, 480), (300, 300, 310, 310), None, "it is another image or was changed"),
    "zero": ((0, 0), (10, 10, 30, 20), ROW, ""),
    "the-same": ((100, 50), (10, 10, 30, 20), ROW, ""),
}


@pytest.mark.parametrize("kind", ["voc", "labelme", "coco"])
@pytest.mark.parametrize("case", SIZES)
def test_sizes(tmp_path, kind, case):
    (width, height), box, expected, said = SIZES[case]
    picture(tmp_path / "s/a.png"), picture(tmp_path / "s/b.png")
    x1, y1, x2, y2 = box
    if kind == "voc":
        size = f"<size><width>{width}</width><height>{height}.0</height><depth>3</depth></size>"
        put(tmp_path / "s/a.xml", voc("a.png", box=box, head=size)), put(tmp_path / "s/b.xml", voc("b.png"))
    elif kind == "labelme":
        put(tmp_path / "s/a.json", labelme("a.png", box=box, imageWidth=width, imageHeight=height))
        put(tmp_path / "s/b.json", labelme("b.png", imageWidth=None))
    else:
        image = {"id": 1, "file_name": "a.png", "width": width, "height": height}
        note = {"image_id": 1, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        put(tmp_path / "s/notes.json", coco([image, "b.png"], [note, (2, 1)]))
    done = convert(kind, tmp_path / "s")
    if expected is None:
        assert "a.png" not in done.boxes and done.status == 1
    else:
        np.testing.assert_allclose(done.boxes["a.png"][0][1:], expected, atol=1e-5)
        assert done.status == 0
    assert said in done.said and done.boxes["b.png"] == [("pit", *ROW)]


def test_training_sees_the_turned_picture(tmp_path):
    """What the boxes are turned to is what OpenVINO, ultralytics and OpenCV show."""
    for orientation in range(1, 9):
        Image.open(turned(tmp_path / "a.png", orientation)).convert("RGB").save(
            tmp_path / "a.jpg", exif=Image.open(tmp_path / "a.png").getexif(), quality=100, subsampling=0)
        np.testing.assert_allclose(box_of(cv2.imread(str(tmp_path / "a.jpg"), cv2.IMREAD_COLOR)[..., 0]), MARK)
