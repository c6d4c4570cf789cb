"""Training sets with few defects among many good parts: how often an image is drawn (`draws`), and defects cut out (`cuts`) and
pasted onto good parts (`paste`).
"""
