"""``python -m qviz`` is the command ``qviz``."""

import sys

from qviz.cli import main

if __name__ == "__main__":
    sys.exit(main())
