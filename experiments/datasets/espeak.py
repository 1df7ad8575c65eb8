"""Speech from espeak-ng's library, which `espeakng-loader` brings: lines of text in, samples out, by ctypes.

What a line sounds like depends, in its last bits, on what the process said before: so `speak` starts a process of its
own, and the same lines give the same samples.
"""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SAMPLE_RATE = 22050
"""Samples a second, espeak-ng's own."""
_SYNCHRONOUS, _UTF8, _RATE, _PITCH = 2, 1, 1, 3  # of speak_lib.h


class Line(NamedTuple):
    """What is said, and how."""

    text: str
    voice: str
    """A language and a variant: `en-us+f2`."""
    rate: int
    """Words a minute; espeak-ng's own are 175."""
    pitch: int
    """From 0 to 100; espeak-ng's own is 50."""


def speak(lines: Sequence[Line]) -> list[np.ndarray]:
    """Say lines, one after the other, in a process that has said nothing yet.

    Returns:
      Of each line its samples, int16 `[samples]`, at `SAMPLE_RATE`.

    Raises:
      ImportError: without `espeakng-loader`.
      RuntimeError: what the process said, if it failed: a voice that there is none of, a library that does not load.

    Example:
      >>> [samples] = speak([Line("two seven", "en-us+f2", rate=175, pitch=50)])
      >>> samples.dtype, 0.3 < len(samples) / SAMPLE_RATE < 1.5
      (dtype('int16'), True)

    Source: https://github.com/espeak-ng/espeak-ng, src/include/espeak-ng/speak_lib.h
    """
    import espeakng_loader

    places = [str(espeakng_loader.get_library_path()), str(espeakng_loader.get_data_path())]
    done = subprocess.run([sys.executable, __file__, *places], input=json.dumps(lines).encode(), capture_output=True)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"it ended with {done.returncode}"]
        raise RuntimeError(f"espeak-ng: {said[-1]}")
    found, left = [], np.frombuffer(done.stdout, np.int16)
    for _ in lines:
        count = int(left[:2].view(np.int32)[0])
        found.append(left[2 : 2 + count])
        left = left[2 + count :]
    return found


def _in_a_process_of_its_own(library: str, data: str) -> None:
    """Say what standard input asks for; of each line its number of samples, and these, go to standard output."""
    speaker, parts = ctypes.CDLL(library), list[np.ndarray]()

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def hear(samples, count, events):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        if samples and count > 0:
            parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    if speaker.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), 0) != SAMPLE_RATE:
        sys.exit(f"{library} does not speak at {SAMPLE_RATE} samples a second")
    speaker.espeak_SetSynthCallback(hear)
    for text, voice, rate, pitch in json.load(sys.stdin):
        if speaker.espeak_SetVoiceByName(voice.encode()):
            sys.exit(f"there is no voice {voice}")
        speaker.espeak_SetParameter(_RATE, rate, 0)
        speaker.espeak_SetParameter(_PITCH, pitch, 0)
        parts.clear()
        speaker.espeak_ng_SetRandSeed(ctypes.c_long(1))  # breath is noise, and begins with the time of day
        said = text.encode() + b"\0"
        if speaker.espeak_Synth(said, ctypes.c_size_t(len(said)), 0, _UTF8, 0, _UTF8, None, None):
            sys.exit(f"{text!r} cannot be said")
        speaker.espeak_Synchronize()
        samples = np.concatenate([np.zeros(0, np.int16), *parts])
        sys.stdout.buffer.write(np.int32(len(samples)).tobytes() + samples.tobytes())


if __name__ == "__main__":
    _in_a_process_of_its_own(*sys.argv[1:])
