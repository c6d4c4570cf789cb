"""The parts of a network that a YAML row can name: one idea per file, each with its own channel rule."""

from models.registry import Registry
from models.rules import Block

BLOCKS: Registry[Block] = Registry("block", "models.blocks")
