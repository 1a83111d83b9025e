"""`python -m benchmarks.speed` compares time and memory of our objectives with those of other libraries."""
