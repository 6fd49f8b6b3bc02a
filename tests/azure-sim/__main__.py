"""`python tests/azure-sim`: see `--help`."""

import sys

from azure_sim.cli import main

if __name__ == "__main__":
    sys.exit(main())
