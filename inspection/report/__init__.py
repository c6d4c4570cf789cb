"""The report of a run as one HTML file that works offline: `collect` takes pictures as they come, `page` writes the file.

`statistics` has the numbers, `charts` draws them as SVG, `thumbnails` keeps small pictures on the disk until the end.
"""
