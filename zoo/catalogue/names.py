"""Names of backbones and plugins: ASCII, so that no letter looks like another."""

from __future__ import annotations

import re

PLUGIN = re.compile(r"\w[\w.+-]*", re.ASCII)
NAME = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)+", re.ASCII)
LONGEST = 255
"""Maximum length of a name in characters, as of file names."""


def foreign_letter(name: str) -> str:
    """Return a clause on the first letter of a name that is not ASCII and may look as if it was, else nothing."""
    from unicodedata import name as describe

    letter = next((character for character in name if not character.isascii() and character.isalpha()), None)
    return "" if letter is None else f": it has the letter U+{ord(letter):04X} ({describe(letter, 'unnamed').lower()})"
