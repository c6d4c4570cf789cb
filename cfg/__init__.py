"""Configuration files: find and read them, and report errors of a user in one line.

The YAML files beside this one hold numbers and choices; the modules find and read them (`find`), read text as other
tools write it (`text`) and turn mistakes into one clear line (`errors`). Every other package may import this one; it
imports none.
"""

from cfg.errors import UserError, guard, is_number, is_whole, nearest, printable
from cfg.find import find, read_yaml
from cfg.text import read_lines, read_text

__all__ = [
    "UserError", "find", "guard", "is_number", "is_whole", "nearest", "printable", "read_lines", "read_text", "read_yaml"
]  # fmt: skip
