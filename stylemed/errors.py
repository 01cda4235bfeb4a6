"""The one exception that a user can cause."""


class BadInput(Exception):
    """Something the user gave cannot be used; the message is one sentence that names it and the cure."""
