"""Secret: a credential that no log, traceback or repr can show by accident."""

from __future__ import annotations

from gateway.config.problems import BadValue


class Secret:
    """A credential: visible ASCII and inner spaces only, so that it cannot break out of a header line.

    Raises BadValue, without the value, for anything else.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        if not text:
            raise BadValue("is empty", "a secret needs at least one character")
        if any(not " " <= character <= "~" for character in text):
            raise BadValue(f"holds {_worst(text)}", "only visible ASCII may go into a header")
        if text != text.strip(" "):
            raise BadValue("begins or ends with a space", "remove the space")
        self._text = text

    def reveal(self) -> str:
        """The credential itself: for the wire, never for a message."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Secret(***)"


def _worst(text: str) -> str:
    if "\r" in text or "\n" in text:
        return "a line break"
    if any(character < " " or character == "\x7f" for character in text):
        return "a control character"
    return "a character outside ASCII"
