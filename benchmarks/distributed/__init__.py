"""The cost of the loss of a global batch on each rank: measured beside the schemes in use, and modelled for many ranks."""
