"""The one exception a user's mistake raises: field, value and remedy in a single line."""

__all__ = ["UserError"]


class UserError(ValueError):
    """A mistake in what the user gave; the programs print it as one line and exit with code 2.

    Args:
      field: what is wrong, named as the user knows it (a flag, a file, a config field).
      value: what was given.
      remedy: what to do instead, a short imperative phrase.
    """

    def __init__(self, field: str, value: object, remedy: str):
        super().__init__(f"{field}: got {value}; {remedy}")
        self.field = field
        self.value = value
        self.remedy = remedy
