"""The reload: a running daemon reads its configuration file again and uses it, unless the file has an error.

Flags and environment are still those of the start, and still have precedence. The calling thread reads the file. The
loop's thread replaces the settings between two turns, so that no decision mixes old and new settings.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from edi_checkpoint.errors import ConfigError
from edi_checkpointd.config import Config, changes
from edi_checkpointd.server.assembly import Daemon

log = logging.getLogger(__name__)


class ConfigReloader:
    """Loads the settings again, and gives them to the parts of a daemon."""

    def __init__(self, load: Callable[[], Config], daemon: Daemon) -> None:
        """Store the parts; `load` returns the present settings."""
        self._load = load
        self._daemon = daemon

    def reload(self) -> None:
        """Read the file and use it. If it has an error, keep the settings, and report the error in log and status."""
        try:
            config = self._load()
        except ConfigError as error:
            fault = error
            self._daemon.mailbox.post(lambda: self._refuse(fault))
        else:
            self._daemon.mailbox.post(lambda: self._use(config))

    def _refuse(self, error: ConfigError) -> None:
        self._daemon.health.config_read(error)
        log.error("configuration refused, the previous settings still apply: %s; %s", error, error.hint)

    def _use(self, config: Config) -> None:
        self._daemon.health.config_read(None)
        for sentence in changes(self._daemon.config.now, config):
            log.info("setting changed: %s", sentence)
        self._daemon.config.replace(config)
        self._daemon.attachments.use_limit(config.attachments_max_bytes)
        self._daemon.janitor.soon()
