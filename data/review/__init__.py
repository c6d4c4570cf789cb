"""Labels that may be wrong: where a model and the labels of a data set disagree most. No label is changed.

`suspects` finds and ranks the disagreements, `part` reads labels and found boxes, `sheets`, `table` and `exports` write them for
a person, and for labelling programs. Command line: `python -m data.review`.
"""
