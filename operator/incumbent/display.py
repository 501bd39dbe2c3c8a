"""Makes text from other people safe to display.

Anybody who can write to a bucket, name a bucket, or answer an admission request can choose text
that appears in conditions, events, log lines and on terminals. A terminal obeys control characters.
ESC begins sequences that move the cursor, recolour or clear the screen, and some terminals type the
answer to a query into the shell. With a line feed, the text can fake a whole line. Characters that
change the direction of writing swap the columns beside them (CVE-2021-42574). Characters without a
width make a name look like another name.

The escapes are those of Python's string literals. A backslash itself is not escaped, so a text that
was escaped before stays as it is. Data (`-o json`, `/v1`, log lines in JSON) is never escaped here,
because JSON and YAML have their own, exact escapes.
"""

from __future__ import annotations

import re
import unicodedata

LONGEST_SHOWN = 1000
"""Most characters of a text that are shown. A holder `<site>/<namespace>/<pod>` has at most 571."""
LONGEST_SENTENCE = 4000
"""Most characters of a sentence that are shown. A sentence may quote an admission webhook."""

MOST_MARKS = 3
"""Most combining marks after one letter. Vietnamese needs two, Hebrew three."""

_HARMLESS = re.compile(r"[ -~]*")
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Characters that cannot be seen but that Python calls printable: those that Unicode calls
ignorable by default, the fillers of Hangul, and the Braille pattern without dots."""
_FROM_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})


def shown(text: str, longest: int = LONGEST_SHOWN) -> str:
    """Return a text on one line, of limited length, with unsafe and invisible characters escaped.

    Args:
        text: any text.
        longest: the most characters of the result. A longer text is cut and ends in an ellipsis.
    """
    if len(text) > longest:
        text = f"{text[: longest - 1]}…"
    if _HARMLESS.fullmatch(text):
        return text
    letters = [*_escaped(text)]
    if sum(map(len, letters)) <= longest:
        return "".join(letters)
    kept, room = [], longest - 1
    for letter in letters:  # an escape is never cut in the middle
        room -= len(letter)
        if room < 0:
            break
        kept.append(letter)
    return "".join(kept) + "…"


def line(text: str) -> str:
    """Return a line of our output, of any length, with unsafe and invisible characters escaped."""
    return text if _HARMLESS.fullmatch(text) else "".join(_escaped(text))


def cell(text: str) -> str:
    """Return a text for a cell of a table, where two spaces would look like a new column."""
    found = shown(text)
    return re.sub(r"(?<= ) |^ | $", r"\\x20", found)


def _escaped(text: str) -> list[str]:
    letters, marks = [], MOST_MARKS  # escape a mark at the beginning, because it has no letter
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
