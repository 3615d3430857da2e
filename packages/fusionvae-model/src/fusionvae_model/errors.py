"""The exceptions that users of this package meet."""


class FusionVAEError(ValueError):
    """Something was asked that cannot be done; the message says what was got, expected, and what to do."""


class NoLikelihoodError(FusionVAEError, AttributeError):
    """A likelihood was asked of a model that has none; to ``hasattr``, the method does not exist."""
