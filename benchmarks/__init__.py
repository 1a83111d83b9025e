"""Programs that reproduce the paper and measure speed; run from a checkout."""


class RequestError(Exception):
    """An option, the data, the network or the output folder cannot be used; the message says why and what to do."""
