"""Complete training programs, short enough to be read."""
