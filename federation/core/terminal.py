"""What others wrote, as a terminal may be given it: in an answer of a command or in a log.

A terminal obeys some characters. With them a peer's words could clear the screen, write a success where there was none,
set the title, or turn a line around.
"""

import re

# C0 without tab and line feed, DEL and C1; marks, embeddings and isolates by which text changes its direction.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    r"""The text with ``\u001b`` and the like in the place of what a terminal obeys; JSON stays the same JSON."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
