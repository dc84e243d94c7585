from __future__ import annotations

from edi_checkpointd.journal import JournalDamaged
from edi_checkpointd.system.worker import Mailbox, Worker


def test_a_look_that_comes_due_while_the_daemon_ends_is_left_to_the_next_one() -> None:
    mailbox = Mailbox()
    worker = Worker("requests", mailbox)
    done: list[object] = []
    mailbox.post(lambda: worker.ask(lambda: "planned", done.append))
    worker.close()
    mailbox.close(ignored=JournalDamaged)
    assert done == []
