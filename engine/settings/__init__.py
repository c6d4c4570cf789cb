"""Training arguments, from the words of a command line to typed parts.

`command_line` reads the words, `recipes` adds the recipe and checks (`checks`), `parts.Settings` sorts them for those that read them.
Importing this is fast, so that a misspelt argument is reported at once.
"""

from engine.settings.checks import OPTIMIZERS, check
from engine.settings.command_line import read_command_line
from engine.settings.defaults import OWN_DEFAULTS, defaults, known_names
from engine.settings.parts import SELECT, SHIPPED, Data, Distillation, Network, Rare, Run, Settings
from engine.settings.recipes import complete

__all__ = [
    "OPTIMIZERS", "OWN_DEFAULTS", "SELECT", "SHIPPED", "Data", "Distillation", "Network", "Rare", "Run", "Settings",
    "check", "complete", "defaults", "known_names", "read_command_line",
]  # fmt: skip
