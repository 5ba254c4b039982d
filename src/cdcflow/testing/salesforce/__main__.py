"""`python -m cdcflow.testing.salesforce`: a Salesforce org on loopback, until SIGTERM or SIGINT."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cdcflow.testing.salesforce.server import Salesforce


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cdcflow.testing.salesforce", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--certificate", type=Path, help="PEM of the public key for JWT bearer")
    options = parser.parse_args(arguments)
    pem = options.certificate.read_text() if options.certificate else ""
    return Salesforce(port=options.port, certificate=pem).run_as_process()


if __name__ == "__main__":
    sys.exit(main())
