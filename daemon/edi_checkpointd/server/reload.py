"""The reload: a daemon that runs goes by its configuration file as it is now, or, where that is bad, as it was.

Flags and environment are those of the start, and win as they did then. The file is read in the thread that asks; the
parts are told in the intake thread, between two turns, so that no decision is made by two sets of settings.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from edi_checkpoint.errors import ConfigError
from edi_checkpointd.config import Config, changes
from edi_checkpointd.server.assembly import Daemon

log = logging.getLogger(__name__)


class ConfigReloader:
    """Loads the settings anew by `load`, and gives them to the parts that go by them."""

    def __init__(self, load: Callable[[], Config], daemon: Daemon) -> None:
        """Take the parts of `daemon`; they go by the settings that `load` gave at the start."""
        self._load = load
        self._daemon = daemon

    def reload(self) -> None:
        """Read the file; go by it if it is good, else say in log and status what is wrong with it."""
        try:
            config = self._load()
        except ConfigError as error:
            fault = error
            self._daemon.mailbox.post(lambda: self._refuse(fault))
        else:
            self._daemon.mailbox.post(lambda: self._use(config))

    def _refuse(self, error: ConfigError) -> None:
        self._daemon.health.config_read(error)
        log.error("configuration refused, the one from before holds: %s; %s", error, error.hint)

    def _use(self, config: Config) -> None:
        self._daemon.health.config_read(None)
        for sentence in changes(self._daemon.config.now, config):
            log.info("setting changed: %s", sentence)
        self._daemon.config.replace(config)
        self._daemon.attachments.use_limit(config.attachments_max_bytes)
        self._daemon.janitor.soon()
