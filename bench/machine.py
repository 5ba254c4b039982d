"""Where and with what the figures were made."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from psycopg import pq

import cdcflow
from bench.server import Source
from cdcflow import decode


def machine() -> dict[str, Any]:
    """Processor, cores that we may use, memory in GB (10^9 bytes), kernel, and how busy it was just now."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": _processor(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "load_before": round(os.getloadavg()[0], 2),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def versions(source: Source) -> dict[str, str]:
    packages = {name: version(name) for name in ("psycopg", "pyarrow", "duckdb", "httpx", "orjson")}
    return {
        "cdcflow": cdcflow.__version__,
        "decoder": decode.implementation(),
        "python": platform.python_version(),
        "postgres": source.one("SHOW server_version"),
        "libpq": str(pq.version()),
        **packages,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except FileNotFoundError:
        pass
    return platform.processor() or platform.machine()
