"""What becomes of refused rows and refused credentials, in the engine's own delivery process."""

import base64
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from cdcflow.delivery import LetterStore, Selection
from cdcflow.engine.places import Places
from cdcflow.journal import Writer
from cdcflow.model import Op
from cdcflow.testing.batches import make_batch
from cdcflow.testing.receiver import OK, Answer, Received, Receiver
from cdcflow.testing.scripted import IDENTITY
from cdcflow.testing.waiting import eventually
from faults.matrix import CONTACTS, Worker

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Project:
    """A configuration with one webhook flow, a journal that the test writes, and the flow's worker."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.places = Places(place / "state")
        self.places.make()
        self.writer = Writer.open(place / "state" / "journal", IDENTITY)
        self.worker = Worker(place / "cdcflow.yaml")
        self._lsn = 1_000

    def configure(self, sink: Mapping[str, Any], dsn: str = "postgresql://nobody@127.0.0.1:1/x") -> None:
        document = {
            "source": {"dsn": dsn, "tables": ["public.*"]},
            "sinks": {"hook": {"type": "webhook", "allow": ["127.0.0.1"], "secret": SECRET, **sink}},
            "flows": [{"name": "flow", "from": ["public.*"], "to": "hook"}],
        }
        YAML(typ="safe").dump(document, self.place / "cdcflow.yaml")

    def commit(self, *notes: str) -> None:
        self._lsn += 8
        rows = [
            (
                Op.INSERT,
                {"id": f"{self._lsn}-{i}", "email": "a@b.example", "version": "1", "note": note},
                None,
            )
            for i, note in enumerate(notes)
        ]
        self.writer.append(
            make_batch(CONTACTS, rows, commit_lsn=self._lsn, commit_time=time.time_ns() // 1_000)
        )
        self.writer.sync()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        program = "from cdcflow.cli.main import main; main()"
        config = str(self.place / "cdcflow.yaml")
        return subprocess.run(
            [sys.executable, "-c", program, "--config", config, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def delivered(self) -> None:
        end = self.writer.tail.offset
        eventually(lambda: self.worker.report and self.worker.report.checkpoint == end, timeout=120)

    def state(self) -> str:
        return self.worker.report.state if self.worker.report else "starting"

    def close(self) -> None:
        self.worker.stop()
        self.writer.close()


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    yield made
    made.close()


def test_one_poison_row_among_ten_thousand_is_the_one_dead_letter_and_a_retry_delivers_it(
    project: Project,
) -> None:
    broken = True

    def respond(request: Received) -> Answer:
        poisoned = any(event["new"]["note"] == "poison" for event in request.events)
        return Answer(422, body=b"stage is not one of the pipeline's") if broken and poisoned else OK

    with Receiver(secrets=[SECRET], respond=respond) as receiver:
        project.configure({"url": receiver.url, "batch": True})
        at = random.Random(3).randrange(10_000)
        for start in range(0, 10_000, 500):
            project.commit(*("poison" if start + i == at else "fine" for i in range(500)))
        project.worker.start()
        project.delivered()
        assert sum(len(r.events) for r in receiver.requests if r.answer.accepts) == 9_999
        [letter] = json.loads(project.run("deadletters", "list", "--json").stdout)
        assert letter["offset"] == at
        assert "answered 422" in letter["reason"]
        assert "stage is not one of the pipeline's" in letter["reason"] + letter["answer"]
        broken = False
        retried = project.run("deadletters", "retry", str(letter["number"]))
        assert retried.returncode == 0, retried.stderr
        assert [e["new"]["note"] for e in receiver.requests[-1].events] == ["poison"]
        assert json.loads(project.run("deadletters", "list", "--json").stdout) == []


def test_a_wrong_token_pauses_the_flow_and_a_replaced_file_lets_it_go_on(project: Project) -> None:
    def respond(request: Received) -> Answer:
        return OK if request.headers["authorization"] == "Bearer right" else Answer(401)

    with Receiver(secrets=[SECRET], respond=respond) as receiver:
        token = project.place / "token"
        token.write_text("wrong")
        project.configure({"url": receiver.url, "auth": {"type": "bearer", "token": f"file:{token}"}})
        project.commit(*(["fine"] * 2_000))
        project.worker.start()
        eventually(lambda: project.state() == "needs attention", timeout=60)
        assert project.worker.report is not None
        assert "401" in project.worker.report.reason
        with LetterStore(project.places.checkpoints) as letters:
            assert letters.select(Selection()) == []
        new = project.place / "token.new"
        new.write_text("right")
        new.rename(token)
        project.delivered()
        eventually(lambda: project.state() == "up to date")
        assert receiver.accepted == 2_000
        with LetterStore(project.places.checkpoints) as letters:
            assert letters.select(Selection()) == []


PLANTED = {
    "dsn": "pl4nted-dsn",
    "signing": "whsec_" + base64.b64encode(b"pl4nted-signing-secret-of-32-byt").decode(),
    "path": "pl4nted-path",
    "header": "pl4nted-header",
    "bearer": "pl4nted-bearer",
    "client": "pl4nted-client",
}


@pytest.mark.parametrize("auth", ["bearer", "oauth2"])
def test_a_planted_secret_is_found_nowhere(project: Project, auth: str) -> None:
    def respond(request: Received) -> Answer:
        """Repeats everything that it was told, in an error."""
        if request.path.endswith("/token"):
            return Answer(200, body=b'{"access_token": "pl4nted-token", "expires_in": 3600}')
        said = " ".join([request.path, *request.headers.values()]).encode() + request.body
        status = {"refused": 422, "denied": 403}.get(request.json["new"]["note"], 500)
        return OK if request.json["new"]["note"] == "fine" else Answer(status, body=said)

    with Receiver(respond=respond) as receiver:
        auths = {
            "bearer": {"type": "bearer", "token": PLANTED["bearer"]},
            "oauth2": {
                "type": "oauth2",
                "token_url": f"{receiver.url}token",
                "client_id": "id",
                "client_secret": PLANTED["client"],
            },
        }
        sink = {
            "url": f"{receiver.url}{PLANTED['path']}",
            "secret": PLANTED["signing"],
            "headers": {"X-Key": PLANTED["header"]},
            "auth": auths[auth],
        }
        project.configure(sink, dsn=f"postgresql://ada:{PLANTED['dsn']}@127.0.0.1:1/x")
        project.commit("fine", "refused", "fine")
        project.worker.start()
        project.delivered()
        reports = [str(project.worker.report)]
        project.commit("busy")
        eventually(lambda: project.worker.report and project.worker.report.reason, timeout=60)
        reports.append(str(project.worker.report))
        project.commit("denied")
        said = [
            project.run(*words)
            for words in (
                ("deadletters", "list"),
                ("deadletters", "list", "--by-cause"),
                ("deadletters", "show", "1"),
                ("deadletters", "export"),
                ("deadletters", "retry", "--all"),
                ("status", "--json"),
                ("flow", "show", "flow"),
                ("check",),
            )
        ]
        project.worker.stop()
    texts = {"report": "\n".join(reports).encode()}
    for one in said:
        texts[" ".join(map(str, one.args[5:]))] = (one.stdout + one.stderr).encode()
    for file in project.place.rglob("*"):
        if file.is_file() and file.name != "cdcflow.yaml":
            texts[str(file.relative_to(project.place))] = file.read_bytes()
    assert any("answered 422" in text.decode(errors="replace") for text in texts.values())
    found = [
        (where, secret)
        for where, text in texts.items()
        for secret in (*PLANTED.values(), "pl4nted")
        if secret.encode() in text
    ]
    assert not found
    for file in (project.place / "state").rglob("*"):
        assert not file.stat().st_mode & 0o077, f"{file} can be read by others"
