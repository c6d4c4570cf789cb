"""Tandem's version, in one place: printed by the command lines and written into every file that Tandem makes."""

VERSION = "0.1.0"
