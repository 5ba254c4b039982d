"""A primary with a standby behind it, as `docs/postgres.md` says that they must be set up to be followed."""

from pathlib import Path

from psycopg.conninfo import make_conninfo

from cdcflow.testing.postgres import Server
from cdcflow.testing.waiting import eventually

#: The physical slot that `Server.standby` makes.
STANDBY = "standby"
#: Seconds for the standby's copy of the slot: it waits until the standby has all that the slot needs.
COPIED_WITHIN = 120.0


class Pair:
    """The two servers take turns: `fail_over` kills the primary, promotes the standby, and puts a new
    standby where the old primary was."""

    def __init__(self, primary: Server, directory: Path) -> None:
        self.primary = primary
        self._directory = directory
        self._made = 0
        self.standby = self._make_standby(port=None)
        #: Finds whoever is the primary.
        self.dsn = make_conninfo(
            primary.dsn(),
            host="127.0.0.1,127.0.0.1",
            port=f"{primary.port},{self.standby.port}",
            target_session_attrs="read-write",
        )

    def _make_standby(self, port: int | None) -> Server:
        self._made += 1
        standby = self.primary.standby(
            self._directory / f"standby{self._made}",
            port=port,
            settings={
                "hot_standby_feedback": "on",
                "sync_replication_slots": "on",
                "primary_slot_name": STANDBY,
                "primary_conninfo": make_conninfo(self.primary.dsn(), application_name=STANDBY),
                # Promoted, it has no standby of its own to wait for.
                "synchronized_standby_slots": "",
            },
        )
        standby.start()
        self.primary.configure({"synchronized_standby_slots": STANDBY})
        self.primary.reload()
        return standby

    def fail_over(self) -> None:
        """Returns when the standby is the primary. What it has not received of the old one is lost."""
        self._wait_for_the_slot()
        dead, self.primary = self.primary, self.standby
        dead.kill()
        self.primary.promote()
        port = dead.port
        dead.destroy()
        self.standby = self._make_standby(port)

    def _wait_for_the_slot(self) -> None:
        def copied() -> bool:
            self.primary.execute("SELECT pg_log_standby_snapshot()")
            slots = "SELECT slot_name FROM pg_replication_slots WHERE synced AND NOT temporary"
            return self.standby.execute(slots) == [("cdcflow",)]

        eventually(copied, timeout=COPIED_WITHIN, interval=0.2, what="the slot on the standby")

    def close(self) -> None:
        self.standby.destroy()
        self.primary.destroy()
