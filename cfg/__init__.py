"""What a person may write, and what we say when it is wrong.

The YAML files beside this one hold numbers and choices; the two modules find and read them (`find`)
and turn mistakes into one clear line (`errors`). Every other package may import this one; it imports none.
"""

from cfg.errors import UserError, guard, is_number, nearest
from cfg.find import find, read_yaml

__all__ = ["UserError", "find", "guard", "is_number", "nearest", "read_yaml"]
