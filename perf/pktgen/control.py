"""The driver's side of the control file (control.h): trials asked for, answers read.

One Control, one generator, one request at a time. While a trial runs this side sleeps: it shares a CPU with the generator.
"""

import json
import mmap
import os
import struct
import time

VERSION = 1
LETTER_BYTES_MAX = 4 << 20
STOP, READY, PROGRESS, REQUEST = 8, 64, 128, 192
LETTER_BYTES = 64 + LETTER_BYTES_MAX
ANSWER = REQUEST + LETTER_BYTES
SIZE = ANSWER + LETTER_BYTES
POLL_S = 0.005


class PktgenError(RuntimeError):
    pass


class Control:
    def __init__(self, path):
        self.path = path
        with open(path, "wb+") as file:
            os.ftruncate(file.fileno(), SIZE)
            self._map = mmap.mmap(file.fileno(), SIZE)
        self._put(0, VERSION)
        self._number = 0

    def close(self):
        self._map.close()
        self.path.unlink(missing_ok=True)

    # An aligned eight-byte copy is one store or load on x86-64; the text is written before its number, and read after it.
    def _put(self, offset, value):
        self._map[offset:offset + 8] = struct.pack("=Q", value)

    def _get(self, offset):
        return struct.unpack("=Q", self._map[offset:offset + 8])[0]

    def wait_ready(self, alive, timeout_s=30.0):
        """Until the generator waits for requests; `alive()` raises when its process has ended."""
        until = time.monotonic() + timeout_s
        while self._get(READY) == 0:
            alive()
            if time.monotonic() > until:
                raise PktgenError(f"the generator is not ready within {timeout_s:g} s")
            time.sleep(0.02)

    def progress(self):
        """(sent, received, moved) of the trial that runs."""
        return struct.unpack("=QQQ", self._map[PROGRESS:PROGRESS + 24])

    def begin(self, trial):
        """Asks for a trial, and returns at once."""
        text = json.dumps(trial).encode()
        if len(text) > LETTER_BYTES_MAX:
            raise PktgenError("the request is too long")
        self._put(STOP, 0)
        self._map[REQUEST + 64:REQUEST + 64 + len(text)] = text
        self._put(REQUEST + 8, len(text))
        self._number += 1
        self._put(REQUEST, self._number)

    def stop(self):
        """Ends the trial early; its answer comes all the same."""
        self._put(STOP, 1)

    def is_answered(self):
        return self._get(ANSWER) == self._number

    def wait(self, alive, timeout_s):
        """The answer to the last request."""
        until = time.monotonic() + timeout_s
        while not self.is_answered():
            alive()
            if time.monotonic() > until:
                raise PktgenError(f"no answer from the generator within {timeout_s:g} s")
            time.sleep(POLL_S)
        answer = json.loads(self._map[ANSWER + 64:ANSWER + 64 + self._get(ANSWER + 8)])
        if "error" in answer:
            raise PktgenError(answer["error"])
        return answer

    def run(self, trial, alive):
        self.begin(trial)
        seconds = trial.get("seconds", 1.0)
        # Asleep for nearly all of it: every look at the answer takes the generator's CPU away for a moment.
        if not trial.get("packets"):
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                alive()
                time.sleep(max(0.0, min(0.25, until - time.monotonic())))
        return self.wait(alive, 3 * seconds + 30.0)
