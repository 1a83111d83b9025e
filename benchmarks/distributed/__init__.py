"""The cost of the loss of a global batch on each rank: measured beside other schemes, and modelled for many ranks."""
