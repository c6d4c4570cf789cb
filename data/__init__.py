"""Data sets: find and check them, convert, split and enlarge them, and make the built-in sample.

Everything here uses the YOLO layout (`images/<part>/*`, `labels/<part>/*.txt`, a data YAML) and needs numpy, OpenCV,
Pillow and SciPy only, so that it can run before, and without, the deep-learning libraries; `data.streams`, cameras and
videos for detect.py and the service, needs PyAV too. Command lines:
`python -m data.convert`, `data.split`, `data.expand`, `data.tile`, `data.check`, `data.review`, `data.sample`.
"""

from data.dataset import DataSummary, data_yaml, first_shape, resolve, validate

__all__ = ["DataSummary", "data_yaml", "first_shape", "resolve", "validate"]
