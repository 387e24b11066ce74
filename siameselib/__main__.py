"""``python -m siameselib`` is the ``siameselib`` command."""

import sys

from siameselib.cli import main

if __name__ == "__main__":
    sys.exit(main())
