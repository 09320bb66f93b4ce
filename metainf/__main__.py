"""`python -m metainf`: the same as the `metainf` command."""

import sys

from metainf.cli import main

if __name__ == "__main__":
    sys.exit(main())
