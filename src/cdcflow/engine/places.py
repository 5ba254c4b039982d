"""Where the engine keeps what: every path under the state folder, and the locks that guard it."""

from dataclasses import dataclass
from pathlib import Path

from cdcflow.errors import EnvironmentFault
from cdcflow.lock import FileLock, Held


@dataclass(frozen=True)
class Places:
    """The paths of one state folder. Nothing exists before `make`."""

    state: Path

    @property
    def run(self) -> Path:
        """Locks and sockets of what runs now."""
        return self.state / "run"

    @property
    def checkpoints(self) -> Path:
        return self.state / "cdcflow.db"

    @property
    def accepted(self) -> Path:
        """The configuration that runs, word for word."""
        return self.state / "accepted.json"

    @property
    def backfills(self) -> Path:
        """What was asked for, and how it ended: a file or two per backfill."""
        return self.state / "backfills"

    @property
    def engine_lock(self) -> Path:
        return self.run / "engine.lock"

    @property
    def engine_socket(self) -> Path:
        return self.run / "engine.sock"

    def budget(self, connection: str) -> Path:
        """What was spent of what the destination of a connection allows."""
        return self.run / f"budget-{connection}"

    def flow(self, flow: str) -> Path:
        """What the sink of a flow keeps for itself."""
        return self.state / "flows" / flow

    def flow_lock(self, flow: str) -> Path:
        return self.run / f"flow-{flow}.lock"

    def flow_socket(self, flow: str) -> Path:
        return self.run / f"flow-{flow}.sock"

    def make(self) -> None:
        """Makes the folders, for this user only: they hold personal data. Raises EnvironmentFault."""
        try:
            self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.run.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise EnvironmentFault(
                f"the state folder {self.state} cannot be made: {error.strerror}",
                hint="make it writable for this user, or name another one at engine.state",
            ) from error


def take_lock(path: Path, *, what: str, hint: str, timeout: float = 0.0) -> FileLock:
    """Raises EnvironmentFault, naming the holder's pid, when somebody else holds the lock for longer than
    `timeout` seconds; `what` and `hint` go into the message."""
    try:
        return FileLock(path, timeout)
    except Held as error:
        raise EnvironmentFault(f"{what} ({error})", hint=hint) from error
    except OSError as error:
        raise EnvironmentFault(
            f"the lock {path} cannot be opened: {error.strerror}",
            hint="make its folder writable for this user",
        ) from error
