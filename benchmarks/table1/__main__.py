"""`python -m benchmarks.table1`: pre-train, evaluate and compare every method of Table 1 on real images."""

import sys

from benchmarks.table1.tables import main

if __name__ == "__main__":
    sys.exit(main())
