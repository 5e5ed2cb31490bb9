"""`python -m roadmap.run ...` is `roadmap run ...`."""

import sys

from roadmap.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
