"""The one exception that a user can cause, and its kind that may pass."""


class BadInput(Exception):
    """Something the user gave cannot be used; the message is one sentence that names it and the cure."""


class Hindered(BadInput):
    """A file is not there, or cannot be read or written now, which says nothing of what is in it: it may go well another time."""
