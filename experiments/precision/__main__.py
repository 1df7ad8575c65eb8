"""`python -m xent.experiments.precision`."""

import sys

from xent.experiments.__main__ import main

if __name__ == "__main__":
    main(["precision", *sys.argv[1:]])
