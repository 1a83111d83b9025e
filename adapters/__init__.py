"""Thin doors into the frameworks: they translate names and conventions and hold no mathematics."""
