"""Log lines: a constant message and its fields as key=value, one line each, on stderr.

`domctl.audit` says every change before it is made. Fields come from `extra`; values are quoted only where
they need it, so that lines can be read and searched. What looks like a secret is masked in all of a line, its
fields and tracebacks too.
"""

from __future__ import annotations

import json
import logging
import sys

from specs.redaction import redacted

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Fields(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        tail = "".join(f" {k}={_shown(v)}" for k, v in fields.items())
        return redacted(super().format(record) + tail)


def _shown(value: object) -> str:
    text = redacted(str(value))  # before quoting, which hides where a value ends
    plain = text and text.isprintable() and not any(c in text for c in ' "=')
    return text if plain else json.dumps(text)


def set_up(level: str) -> None:
    """All of the process' logging, once, by the composition root."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Fields("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
