"""`python -m cdcflow.testing.hubspot`: a HubSpot account on loopback, until SIGTERM or SIGINT."""

import argparse
import sys
from collections.abc import Sequence

from cdcflow.testing.hubspot.server import HubSpot


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cdcflow.testing.hubspot", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token", help="the private app's token, instead of the one in the code")
    options = parser.parse_args(arguments)
    hubspot = HubSpot(port=options.port)
    if options.token:
        hubspot.tokens = {options.token}
    return hubspot.run_as_process()


if __name__ == "__main__":
    sys.exit(main())
