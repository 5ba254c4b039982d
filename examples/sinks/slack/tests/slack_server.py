"""A server that takes messages as Slack's incoming webhooks do, as far as these tests need it.

https://api.slack.com/changelog/2016-05-17-changes-to-errors-for-incoming-webhooks
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


class Slack:
    """Use as a context manager. `answers` are given to the next messages, then every one is fine."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.answers: list[tuple[int, str]] = []
        self.retry_after = "1"
        slack = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # an answer in one piece
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, word = slack.take(body) if not slack.answers else slack.answers.pop(0)
                self.send_response(status)
                self.send_header("Content-Length", str(len(word)))
                if status == 429:
                    self.send_header("Retry-After", slack.retry_after)
                self.end_headers()
                self.wfile.write(word.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/services/T000/B000/XXXX"

    def take(self, body: bytes) -> tuple[int, str]:
        try:
            text = json.loads(body)["text"]
        except (ValueError, KeyError, TypeError):
            return 400, "invalid_payload"
        if not isinstance(text, str) or not text:
            return 400, "no_text"
        self.messages.append(text)
        return 200, "ok"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
