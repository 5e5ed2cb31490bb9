"""`python -m roadmap ...` is `roadmap ...`."""

import sys

from roadmap.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
