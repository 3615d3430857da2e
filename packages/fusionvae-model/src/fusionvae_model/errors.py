"""The one exception that users of this package meet."""


class FusionVAEError(ValueError):
    """Something was asked that cannot be done; the message says what was got, expected, and what to do."""
