"""The demo's own folder: a real configuration, as a person would write it, and what the run leaves behind.

Every run has a folder of its own, `run-1`, `run-2`, …: a later one never touches what an earlier one left.
"""

import base64
import secrets
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from cdcflow.errors import EnvironmentFault

#: The webhook's tables: among them one whose key changes, one with TOASTed values, one that is truncated.
HOOKED = ("orders", "products", "support_tickets", "flash_offers")

#: The flows' names, which are their files'.
WAREHOUSE_FLOW, HOOK_FLOW = "warehouse", "shop-events"

_CONFIGURATION = """\
# The demo's configuration, as you would write one for your own database.
# Its Postgres and its webhook receiver run only while the demo does; the warehouse and the journal stay.

source:
  # For a database with a password: ${{DATABASE_URL}}, or file:/path to a file that holds the address.
  dsn: {dsn}
  # Every table of the schema. "!public.audit_*" would leave tables out.
  tables: [public.*]
  # Made by `cdcflow setup`: what the server sends, and the place up to which it has been sent.
  publication: cdcflow
  slot: cdcflow
  # Copy the rows that are there first, consistently with what changes meanwhile.
  backfill: initial

journal:
  # How much history is kept for new flows and for going back, once every flow has read it.
  keep: {{size: 20GB, age: 7d}}

engine:
  # Journal, checkpoints and locks.
  state: state

sinks:
  warehouse: {{type: duckdb, path: warehouse.duckdb}}
  hook: {{type: webhook, url: "{url}", secret: "file:hook.secret", allow: [127.0.0.1]}}

# A file per flow.
flows: flows/
"""

_WAREHOUSE = """\
# Every captured table into the warehouse, which then equals the source.
from: [public.*]
to: warehouse
"""

_HOOK = """\
# These tables' changes to the webhook, one signed request each, in order per key.
from: [{tables}]
to: hook
"""


@dataclass(frozen=True)
class Project:
    """The places in a run's folder."""

    folder: Path

    @property
    def configuration(self) -> Path:
        return self.folder / "cdcflow.yaml"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def journal(self) -> Path:
        return self.state / "journal"

    @property
    def warehouse(self) -> Path:
        return self.folder / "warehouse.duckdb"

    @property
    def server(self) -> Path:
        return self.folder / "postgres"

    @property
    def received(self) -> Path:
        """What the webhook's receiver got: a JSON line per request."""
        return self.folder / "webhook-received.jsonl"

    @property
    def log(self) -> Path:
        """What the engine said."""
        return self.folder / "engine.log"

    @property
    def secret(self) -> Path:
        return self.folder / "hook.secret"

    @classmethod
    def create(cls, directory: Path) -> "Project":
        """Makes the folder of the next run. Raises EnvironmentFault when it cannot."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for number in count(1):
                folder = directory / f"run-{number}"
                try:
                    folder.mkdir()
                except FileExistsError:
                    continue
                return cls(folder.absolute())
        except OSError as error:
            raise EnvironmentFault(
                f"the demo's folder {directory} cannot be made: {error.strerror}",
                hint="choose another one with --dir",
            ) from error
        raise AssertionError("count() does not end")

    def make_secret(self) -> str:
        """Writes the webhook's signing secret, and returns it. Standard Webhooks: 24 to 64 random bytes."""
        secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode("ascii")
        self.secret.touch(mode=0o600)
        self.secret.write_text(secret + "\n", encoding="ascii")
        return secret

    def write_configuration(self, *, dsn: str, url: str) -> None:
        flows = self.folder / "flows"
        flows.mkdir()
        self.configuration.write_text(_CONFIGURATION.format(dsn=dsn, url=url), encoding="utf-8")
        (flows / f"{WAREHOUSE_FLOW}.yaml").write_text(_WAREHOUSE, encoding="utf-8")
        tables = ", ".join(f"public.{table}" for table in HOOKED)
        (flows / f"{HOOK_FLOW}.yaml").write_text(_HOOK.format(tables=tables), encoding="utf-8")
