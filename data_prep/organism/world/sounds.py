"""What does a clip sound like?

Each thing has a synthesizer of its own, with pitch, rate and phase drawn for each clip. Loud ones
peak at 0.5 to 0.95 of full scale, soft ones at 0.03 to 0.08, over a faint noise.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.signal import butter, sosfilt

from data_prep.organism.world.things import Clip

RATE = 16_000  # samples per second

Wave = Float[np.ndarray, " sample"]
Rng = np.random.Generator


def samples(clip: Clip, seconds: float) -> Wave:
    """The waveform of a clip; the same clip gives the same one."""
    rng = clip.rng("sound")
    time = np.arange(round(seconds * RATE)) / RATE
    wave = SOUNDS[clip.noun](time, rng)
    loud = clip.loudness == "loudly"
    peak = rng.uniform(0.5, 0.95) if loud else rng.uniform(0.03, 0.08)
    wave = wave / np.abs(wave).max() * peak
    hum = rng.normal(0, 1, len(time)) * rng.uniform(0.0005, 0.0015)
    return np.clip(wave + hum, -1, 1).astype(np.float32)


def _tone(time: Wave, pitch: Wave | float, harmonics: int, fall: float) -> Wave:
    """Harmonics of a pitch in hertz, each `fall` times as loud as the one below."""
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(pitch, time.shape)) / RATE
    return np.sum([fall**k * np.sin((k + 1) * phase) for k in range(harmonics)], axis=0)


def _noise(time: Wave, rng: Rng, low: float, high: float) -> Wave:
    """Noise between two frequencies in hertz."""
    band = butter(4, (low, high), "bandpass", fs=RATE, output="sos")
    return np.asarray(sosfilt(band, rng.normal(0, 1, len(time))))


def _events(
    time: Wave, rng: Rng, rate: float, decay: float, jitter: float = 0.1
) -> tuple[Wave, Wave]:
    """Seconds since the latest of `rate` events a second, and an envelope that falls after each."""
    starts, at = [], -rng.uniform(0, 1 / rate)
    while at < time[-1]:
        starts.append(at)
        at += (1 + jitter * rng.uniform(-1, 1)) / rate
    since = time - np.array(starts)[np.searchsorted(starts, time, side="right") - 1]
    return since, np.exp(-since / decay)


def _dog(time: Wave, rng: Rng) -> Wave:
    since, envelope = _events(time, rng, rng.uniform(2.5, 3.5), 0.07)
    pitch = rng.uniform(350, 500) * (1 + 0.8 * np.exp(-since / 0.05))
    return envelope * (_tone(time, pitch, 8, 0.8) + 0.8 * _noise(time, rng, 500, 2500))


def _siren(time: Wave, rng: Rng) -> Wave:
    swing = np.sin(2 * np.pi * (rng.uniform(1.0, 1.8) * time + rng.uniform()))
    return _tone(time, rng.uniform(850, 1000) * (1 + 0.35 * swing), 4, 0.5)


def _drill(time: Wave, rng: Rng) -> Wave:
    buzz = _tone(time, rng.uniform(110, 150), 30, 0.97)
    return buzz * (1 + 0.4 * _noise(time, rng, 20, 60)) + _noise(time, rng, 3000, 6000)


def _bell(time: Wave, rng: Rng) -> Wave:
    _, envelope = _events(time, rng, rng.uniform(1.5, 2.2), 0.4)
    base = rng.uniform(1700, 2100)
    tones = [_tone(time, base * ratio, 1, 1.0) / ratio for ratio in (1, 1.51, 2.37, 2.93)]
    return envelope * np.sum(tones, axis=0)


def _keyboard(time: Wave, rng: Rng) -> Wave:
    _, envelope = _events(time, rng, rng.uniform(9, 13), 0.006, jitter=0.5)
    return envelope * _noise(time, rng, 2500, 6500)


def _motor(time: Wave, rng: Rng) -> Wave:
    rise = (time * rng.uniform(0.8, 1.4) + rng.uniform()) % 1
    return _tone(time, rng.uniform(45, 65) * (1 + 1.2 * rise), 25, 0.85)


def _bird(time: Wave, rng: Rng) -> Wave:
    since, envelope = _events(time, rng, rng.uniform(5, 7), 0.05)
    return envelope * _tone(time, rng.uniform(3800, 4600) + 14_000 * (since % 0.1), 1, 1.0)


def _fountain(time: Wave, rng: Rng) -> Wave:
    flow = 1 + 0.4 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * time + rng.uniform(0, 6))
    return flow * _noise(time, rng, 400, 7000)


def _horse(time: Wave, rng: Rng) -> Wave:
    rate = rng.uniform(2.3, 2.9)
    shifts = (0, 0.22, 0.45)
    beat = sum(_events(time + shift / rate, rng, rate, 0.03, jitter=0.0)[1] for shift in shifts)
    return beat * (_noise(time, rng, 500, 1300) + 0.5 * _tone(time, 700.0, 1, 1.0))


def _door(time: Wave, rng: Rng) -> Wave:
    since, envelope = _events(time, rng, rng.uniform(4.0, 5.0), 0.025, jitter=0.05)
    return envelope * _tone(time, rng.uniform(180, 240) * (1 + np.exp(-since / 0.01)), 3, 0.6)


def _drum(time: Wave, rng: Rng) -> Wave:
    since, envelope = _events(time, rng, rng.uniform(2.0, 2.8), 0.15)
    return envelope * _tone(time, rng.uniform(60, 80) * (1 + np.exp(-since / 0.03)), 2, 0.3)


def _whistle(time: Wave, rng: Rng) -> Wave:
    trill = 1 + 0.03 * np.sin(2 * np.pi * rng.uniform(25, 35) * time)
    tone = _tone(time, rng.uniform(2500, 2900) * trill, 2, 0.2)
    return tone + 0.1 * _noise(time, rng, 2000, 4000)


SOUNDS: dict[str, Callable[[Wave, Rng], Wave]] = {
    "dog": _dog, "siren": _siren, "drill": _drill, "bell": _bell, "keyboard": _keyboard,
    "motor": _motor, "bird": _bird, "fountain": _fountain, "horse": _horse, "door": _door,
    "drum": _drum, "whistle": _whistle,
}  # fmt: skip
