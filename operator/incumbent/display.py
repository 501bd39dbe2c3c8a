"""Text that somebody else chose, as people may see it.

Anybody who can write to a bucket, name a bucket, or answer a request for admission, chooses text
that ends up in conditions, in events, in log lines and on terminals. A terminal obeys control
characters: ESC begins sequences that move the cursor, recolour or clear the screen, and some
terminals type the answer to a question into the shell. A line feed begins a line that nobody
wrote. Characters that change the direction of writing swap the columns beside them
(CVE-2021-42574), and characters without a width hide in a name that looks like another.

Escapes are those of Python's string literals. A backslash itself is not escaped, so that a text
which was escaped before stays as it is. Data (`-o json`, `/v1`, log lines in JSON) is never escaped
here: JSON and YAML have escapes of their own, which are exact.
"""

from __future__ import annotations

import re
import unicodedata

LONGEST_SHOWN = 1000
"""Characters of a text that are shown; a holder `<site>/<namespace>/<pod>` has at most 571."""
LONGEST_SENTENCE = 4000
"""Characters that are shown of a sentence, which may quote an admission webhook."""

MOST_MARKS = 3
"""Combining marks behind one letter; Vietnamese takes two, Hebrew three."""

_HARMLESS = re.compile(r"[ -~]*")
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""What Unicode calls ignorable by default, as far as Python takes it for printable; the fillers of
Hangul; and the pattern without a dot of Braille."""
_FROM_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})


def shown(text: str, longest: int = LONGEST_SHOWN) -> str:
    """Return a text on one line, without what a terminal obeys or hides, and not endless.

    Args:
        text: any text; what cannot be shown is escaped.
        longest: the most characters of the result; what is longer ends in an ellipsis.
    """
    if len(text) > longest:
        text = f"{text[: longest - 1]}…"
    if _HARMLESS.fullmatch(text):
        return text
    letters = [*_escaped(text)]
    if sum(map(len, letters)) <= longest:
        return "".join(letters)
    kept, room = [], longest - 1
    for letter in letters:  # an escape is shown whole or not at all
        room -= len(letter)
        if room < 0:
            break
        kept.append(letter)
    return "".join(kept) + "…"


def line(text: str) -> str:
    """Return a line of a screen of ours, however long, with nothing in it that is no text."""
    return text if _HARMLESS.fullmatch(text) else "".join(_escaped(text))


def cell(text: str) -> str:
    """Return a text as a cell of a table, in which two spaces would look like the next column."""
    found = shown(text)
    return re.sub(r"(?<= ) |^ | $", r"\\x20", found)


def _escaped(text: str) -> list[str]:
    letters, marks = [], MOST_MARKS  # a mark at the beginning has no letter of its own
    for letter in text:
        marks = marks + 1 if unicodedata.category(letter) in {"Mn", "Me"} else 0
        wrong = (
            not letter.isprintable()
            or marks > MOST_MARKS
            or _INVISIBLE.match(letter)
            or unicodedata.bidirectional(letter) in _FROM_RIGHT_TO_LEFT
        )
        letters.append(letter.encode("unicode_escape").decode() if wrong else letter)
    return letters
