"""`python -m hetsched`: the command line."""

import sys

from hetsched.cli import main

if __name__ == "__main__":  # not in the processes that multiprocessing starts
    sys.exit(main())
