"""The window of a stream: its frames in flight, and when to send the next frame or a probe.

The caller passes the time (monotonic). The link thread changes a window; publishing threads only read it.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Final

from edi_checkpoint.wire.messages import WINDOW_BYTES

FRAMES_IN_FLIGHT: Final = 256  # limits small frames too, because the socket's queue must never fill
BURST_ENTRIES: Final = 8  # a frame with this many entries was a burst
BURST_S: Final = 0.002  # how long the link waits for the next burst, to send it in one frame
_SILENCE_S = 0.25  # after this time without an acknowledgement, the link sends a probe
_SILENCE_MAX_S = 5.0


class Window:
    """The frames of one stream that were sent and not acknowledged."""

    def __init__(self) -> None:
        self.sent = 0  # the last number sent
        self.in_flight: deque[tuple[int, int]] = deque()  # (last number, bytes) of each frame
        self.refused: tuple[bytes, int] | None = None  # a frame that the socket refused, and its last number
        self._in_flight_bytes = 0
        self._burst = 0  # the number of entries in the last frame, if it was a burst
        self._gather_until_s = 0.0  # until when entries wait for the next burst; 0: they do not
        self._probe_at_s = 0.0
        self._probe_pause_s = 0.0
        self._probed = 0  # `sent` when the unanswered probe was sent; 0: none

    @property
    def due_s(self) -> float:
        """When the link has to send entries or a probe: monotonic time, or infinity."""
        due_s = self._probe_at_s if self.in_flight else inf
        return min(due_s, self._gather_until_s) if self._gather_until_s else due_s

    @property
    def has_room(self) -> bool:
        """Whether another frame may be sent before the next acknowledgement."""
        return self._in_flight_bytes < WINDOW_BYTES and len(self.in_flight) < FRAMES_IN_FLIGHT

    def gathers(self, published: int) -> bool:
        """Whether entries up to `published` wait for an acknowledgement, or for the next burst."""
        return bool(self.in_flight) or (self._gather_until_s > 0 and published - self.sent < self._burst)

    def end_gathering(self, now_s: float) -> None:
        """Stop waiting for the next burst after `BURST_S`."""
        if 0 < self._gather_until_s <= now_s:
            self._gather_until_s = 0.0

    def hold(self, frame: tuple[bytes, int]) -> None:
        """Store a frame that the socket refused; it is sent before any other."""
        self.refused = frame

    def note_sent(self, last: int, size: int, now_s: float) -> None:
        """Record that a frame of `size` bytes was sent; `last` is its last number."""
        if not self.in_flight:
            self._await_answer(now_s)
        self.refused = None
        entries = last - self.sent
        self._burst = entries if entries >= BURST_ENTRIES else 0
        self._gather_until_s = 0.0
        self.sent = last
        self.in_flight.append((last, size))
        self._in_flight_bytes += size

    def is_silent(self, now_s: float) -> bool:
        """Return whether a probe is due; if so, the next one is due after twice the time."""
        if not self.in_flight or now_s < self._probe_at_s:
            return False
        self._probe_pause_s = min(2 * self._probe_pause_s, _SILENCE_MAX_S)
        self._probe_at_s = now_s + self._probe_pause_s
        return not self._probed

    def note_probed(self) -> None:
        """Record that a probe was sent."""
        self._probed = self.sent

    def acknowledge(self, number: int) -> None:
        """Drop the frames whose last number is at most `number`."""
        while self.in_flight and self.in_flight[0][0] <= number:
            self._in_flight_bytes -= self.in_flight.popleft()[1]

    def proves_loss(self, probe: int, number: int) -> bool:
        """Return whether the answer to `probe` shows that entries after `number` were lost."""
        return bool(probe) and probe == self._probed and number < self._probed

    def note_answer(self, now_s: float) -> None:
        """Record that the daemon answered: the next silence begins now, and another burst may follow."""
        if self._burst and not self.in_flight:
            self._gather_until_s = now_s + BURST_S
        self._await_answer(now_s)
        self._probed = 0

    def _await_answer(self, now_s: float) -> None:
        self._probe_pause_s = _SILENCE_S
        self._probe_at_s = now_s + _SILENCE_S

    def rewind(self, number: int) -> None:
        """Have all entries after `number` sent again."""
        self.sent = number
        self.in_flight.clear()
        self._in_flight_bytes = 0
        self._gather_until_s = 0.0
        self.refused = None
        self._probed = 0
