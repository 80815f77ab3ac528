"""Vowels made of sines, so that this sample needs no recording: what is voice in them is known.

A voice is a tone and its harmonics, each as loud as the mouth's resonances make it (the formants;
frequencies of five vowels after Peterson and Barney, 1952). Around it lies faint noise.
"""

import numpy as np

RATE_HZ = 16_000
WINDOW = 512  # samples that the network takes at a time, 32 ms
CONTEXT = 64  # samples of the window before, which stand in front of them
VOWELS_HZ = [
    (730, 1090, 2440),
    (270, 2290, 3010),
    (300, 870, 2240),
    (530, 1840, 2480),
    (570, 840, 2410),
]
WIDTHS_HZ = (60, 90, 120)
SYLLABLE = 6 * WINDOW


def recording(seed: int, windows: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Sound (windows * 512,) float32 and what each window is, (windows,): 1 voice, 0 none.

    Silence and voice take turns, each for twelve to thirty windows; a voice is spoken at 110 to
    220 Hz. -1 marks windows at an end of a voice, on which people would disagree too.
    """
    rng = np.random.default_rng(seed)
    sound = 0.002 * rng.normal(size=windows * WINDOW)
    kinds = np.zeros(windows, np.int64)
    place = int(rng.integers(12, 30))
    while place < windows:
        end = min(place + int(rng.integers(12, 30)), windows)
        spoken = voice(rng, (end - place) * WINDOW)
        sound[place * WINDOW : end * WINDOW] += spoken
        kinds[place:end] = 1
        kinds[[place, min(place + 1, windows - 1)]] = -1
        kinds[end : end + 3] = -1
        place = end + int(rng.integers(12, 30))
    return sound.astype(np.float32), kinds


def voice(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Vowels one after the other, 0.2 s each."""
    seconds = np.arange(samples) / RATE_HZ
    pitch = rng.uniform(110, 220) * (1 + 0.05 * np.sin(2 * np.pi * 3 * seconds))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE_HZ
    sound = np.zeros(samples)
    for begin in range(0, samples, SYLLABLE):
        part = slice(begin, begin + SYLLABLE)
        formants = VOWELS_HZ[rng.integers(len(VOWELS_HZ))]
        for harmonic in range(1, int(3_500 / pitch.max())):
            hertz = harmonic * pitch[part]
            loud = sum(
                1 / (1 + ((hertz - formant) / width) ** 2) / (number + 1)
                for number, (formant, width) in enumerate(zip(formants, WIDTHS_HZ, strict=True))
            )
            sound[part] += loud * np.sin(harmonic * phase[part])
        sound[part] *= np.sqrt(np.hanning(len(sound[part])))
    return 0.3 * sound / np.abs(sound).max()


def windows(sound: np.ndarray) -> np.ndarray:
    """(samples,) → (windows, 576): each window with the end of the one before in front."""
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), sound])
    count = len(sound) // WINDOW
    places = np.arange(count)[:, None] * WINDOW + np.arange(CONTEXT + WINDOW)[None, :]
    return padded[places]
