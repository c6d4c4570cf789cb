"""The report of a run as one HTML file that works offline: `collect` takes images as they come, `page` writes the file.

`statistics` has the numbers, `charts` draws them as SVG, `thumbnails` keeps small images on the disk until the end.
"""
