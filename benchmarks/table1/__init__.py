"""Table 1: every method on real images, from one command."""
