"""The installed version of edi-checkpoint."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """Return the version of this package, or `unknown` if it is not installed."""
    try:
        return version("edi-checkpoint")
    except PackageNotFoundError:
        return "unknown"
