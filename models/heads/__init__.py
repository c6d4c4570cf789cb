"""What turns pyramid features into boxes: the last row of a model YAML names one of these."""

from models.registry import Registry

HEADS = Registry("head", "models.heads")
