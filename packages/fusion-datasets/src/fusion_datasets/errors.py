"""The one exception that users of this package meet."""


class FusionDatasetsError(ValueError):
    """Something given to this package cannot be used; the message says what was got, expected, and to do."""
