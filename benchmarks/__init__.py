"""Programs that reproduce the paper and measure speed. Run them in a checkout."""


class RequestError(Exception):
    """An option, the data, the backbone or the output folder cannot be used. The message says what to do."""
