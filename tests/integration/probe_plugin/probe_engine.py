"""The engine with the probe for capture, as a program: `probe_engine.py CONFIG`."""

import sys
from pathlib import Path

from cdcflow.engine import accepted
from cdcflow.engine.supervisor import Commands, run


class ProbeCommands(Commands):
    def capture(self) -> list[str]:
        return [sys.executable, str(Path(__file__).with_name("probe_capture.py")), self.config]


if __name__ == "__main__":
    config = accepted.start(Path(sys.argv[1])).config
    sys.exit(run(config, verbose=True, preflight=lambda _: [], commands=ProbeCommands(config)))
