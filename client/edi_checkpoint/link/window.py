"""The window of a stream: which of its frames are sent and not acknowledged, and when to send or ask next.

Pure: the caller passes the time. The link thread changes a window; publishing threads only read it.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Final

from edi_checkpoint.wire.messages import WINDOW_BYTES

FRAMES_IN_FLIGHT: Final = 256  # small frames are bounded too: the socket's own queue must never fill
BURST_ENTRIES: Final = 8  # in one frame: they come in bursts
BURST_S: Final = 0.002  # how long the next burst may take to come, and to leave in one frame
_SILENCE_S = 0.25  # no acknowledgement for so long: ask
_SILENCE_MAX_S = 5.0


class Window:
    """The frames of one stream that are in flight."""

    def __init__(self) -> None:
        """Begin with nothing sent."""
        self.sent = 0  # the last number sent
        self.in_flight: deque[tuple[int, int]] = deque()  # (last number, bytes) of each frame
        self.refused: tuple[bytes, int] | None = None  # a frame that the socket did not take
        self._in_flight_bytes = 0
        self._burst = 0  # how many entries the last frame had, if they were many
        self._leave_at_s = 0.0  # when what gathers after a burst leaves; 0: nothing does
        self._probe_at_s = 0.0
        self._probe_pause_s = 0.0
        self._probed = 0  # `sent` when the probe under way left; 0: none

    @property
    def due_s(self) -> float:
        """When the link has to look by itself: monotonic, or infinity."""
        due_s = self._probe_at_s if self.in_flight else inf
        return min(due_s, self._leave_at_s) if self._leave_at_s else due_s

    @property
    def has_room(self) -> bool:
        """Whether another frame may be sent before an acknowledgement comes."""
        return self._in_flight_bytes < WINDOW_BYTES and len(self.in_flight) < FRAMES_IN_FLIGHT

    def gathers(self, published: int) -> bool:
        """Whether entries up to `published` wait for an acknowledgement, or after a burst for the next one."""
        return bool(self.in_flight) or (self._leave_at_s > 0 and published - self.sent < self._burst)

    def end_gathering(self, now_s: float) -> None:
        """Stop waiting for the next burst when its time is over."""
        if 0 < self._leave_at_s <= now_s:
            self._leave_at_s = 0.0

    def hold(self, frame: tuple[bytes, int]) -> None:
        """Note a frame that the socket did not take; it is sent before any other."""
        self.refused = frame

    def note_sent(self, last: int, size: int, now_s: float) -> None:
        """Note that a frame of `size` bytes left; `last` is its last number."""
        if not self.in_flight:
            self._await_answer(now_s)
        self.refused = None
        entries = last - self.sent
        self._burst = entries if entries >= BURST_ENTRIES else 0
        self._leave_at_s = 0.0
        self.sent = last
        self.in_flight.append((last, size))
        self._in_flight_bytes += size

    def is_silent(self, now_s: float) -> bool:
        """Whether it is time to ask what became of the frames in flight; if so, wait twice as long for the next."""
        if not self.in_flight or now_s < self._probe_at_s:
            return False
        self._probe_pause_s = min(2 * self._probe_pause_s, _SILENCE_MAX_S)
        self._probe_at_s = now_s + self._probe_pause_s
        return not self._probed

    def note_probed(self) -> None:
        """Note that a probe left."""
        self._probed = self.sent

    def acknowledge(self, number: int) -> None:
        """Drop the frames that hold nothing beyond `number`."""
        while self.in_flight and self.in_flight[0][0] <= number:
            self._in_flight_bytes -= self.in_flight.popleft()[1]

    def proves_loss(self, probe: int, number: int) -> bool:
        """Whether the answer to the probe `probe` shows that entries after `number` were lost."""
        return bool(probe) and probe == self._probed and number < self._probed

    def note_answer(self, now_s: float) -> None:
        """Note that the daemon has answered: a burst may follow, and the next silence begins now."""
        if self._burst and not self.in_flight:
            self._leave_at_s = now_s + BURST_S
        self._await_answer(now_s)
        self._probed = 0

    def _await_answer(self, now_s: float) -> None:
        self._probe_pause_s = _SILENCE_S
        self._probe_at_s = now_s + _SILENCE_S

    def rewind(self, number: int) -> None:
        """Send again all that follows `number`."""
        self.sent = number
        self.in_flight.clear()
        self._in_flight_bytes = 0
        self._leave_at_s = 0.0
        self.refused = None
        self._probed = 0
