"""What the loss of a global batch costs each rank: measured beside the schemes in use, and modelled for many ranks."""
