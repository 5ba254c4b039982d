"""The part of the build that a table cannot say: the package-dir mapping and the optional kernel.

`CDCFLOW_BUILD_EXT` decides about the compiled kernel: `auto` (default) builds it when a compiler is
there and goes on without it when not, `yes` makes its absence an error, `no` never tries.
"""

import os

from setuptools import Extension, find_packages, setup

WANTED = os.environ.get("CDCFLOW_BUILD_EXT", "auto").lower()
if WANTED not in ("auto", "yes", "no"):
    raise SystemExit(f"CDCFLOW_BUILD_EXT must be auto, yes or no, found {WANTED!r}")

#: Each kernel, and the headers that it is made of besides.
KERNELS: dict[str, list[str]] = {
    "cdcflow.decode._kernel": [],
    "cdcflow.source._copying": [],
    "cdcflow.transform._hmac": ["src/cdcflow/transform/_sha256.h"],
}


def extensions() -> list[Extension]:
    if WANTED == "no":
        return []
    kernels = [
        Extension(
            name,
            [f"src/{name.replace('.', '/')}.pyx"],
            depends=headers,
            extra_compile_args=["-O3"],
            optional=WANTED == "auto",
        )
        for name, headers in KERNELS.items()
    ]
    try:
        from Cython.Build import cythonize
    except ImportError:
        if WANTED == "yes":
            raise
        return []
    built: list[Extension] = cythonize(kernels, language_level=3)
    return built


def mapped(prefix: str, folder: str) -> list[str]:
    """`folder` and the packages below it, under the import name `prefix`."""
    below = find_packages(folder)
    return [prefix, *(f"{prefix}.{name}" for name in below)]


setup(
    packages=[*find_packages("src"), *mapped("cdcflow_sinks", "sinks"), "cdcflow.sql"],
    package_dir={"": "src", "cdcflow_sinks": "sinks", "cdcflow.sql": "sql"},
    package_data={
        "cdcflow": ["py.typed", "**/*.typed"],
        "cdcflow_sinks": ["py.typed"],
        "cdcflow.sql": ["*.sql"],
    },
    ext_modules=extensions(),
)
