"""From boxes to a decision about a part: plans, promises, rates. Needs no deep-learning library and no OpenCV."""
