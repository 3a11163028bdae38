#!/usr/bin/env python3
"""Makes the fixtures and the references that `src/tests/golden.rs` compares with.

Run by hand when a fixture is added: `python3 stages/audio/tests/make_goldens.py`. Needs numpy, soundfile, librosa, soxr
and ffmpeg; `fixtures/goldens.json` says which versions made what is committed.

The signal is synthetic (a gliding voice-like tone with harmonics, a chirp, short bursts), so that its band is known: it
ends at 6.6 kHz (3.2 kHz in the files of 8 kHz) and starts again at 9 kHz, and so leaves out the band in which resamplers
may differ. What lies above 8 kHz would alias if a resampler let it.
"""
import json
import os
import subprocess
import sys
import tempfile

import librosa
import numpy as np
import soundfile
import soxr

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures")
RATE, SECONDS, TARGET = 44_100, 0.32, 16_000
# Name, arguments of ffmpeg, what decodes the reference, number type of the reference. ffmpeg's AAC encoder would fill gaps
# with noise that each decoder makes up anew, and its own Opus decoder is not the reference one.
FILES = [
    ("s16-mono.wav", ["-ac", "1", "-c:a", "pcm_s16le"], "soundfile", "f32"),
    ("s16.flac", ["-c:a", "flac"], "soundfile", "f32"),
    ("s24-22k.flac", ["-ar", "22050", "-ac", "1", "-c:a", "flac", "-sample_fmt", "s32"], "soundfile", "f32"),
    ("u8-8k.wav", ["-ar", "8000", "-ac", "1", "-c:a", "pcm_u8"], "soundfile", "f32"),
    ("alaw-8k.wav", ["-ar", "8000", "-ac", "1", "-c:a", "pcm_alaw"], "soundfile", "f32"),
    ("mulaw-8k.wav", ["-ar", "8000", "-ac", "1", "-c:a", "pcm_mulaw"], "soundfile", "f32"),
    ("lame.mp3", ["-c:a", "libmp3lame", "-b:a", "96k"], "ffmpeg", "i16"),
    ("aac.m4a", ["-c:a", "aac", "-b:a", "96k", "-aac_pns", "0"], "ffmpeg", "i16"),
    ("aac.aac", ["-c:a", "aac", "-b:a", "64k", "-aac_pns", "0", "-ar", "32000", "-ac", "1"], "ffmpeg", "i16"),
    ("vorbis.ogg", ["-c:a", "libvorbis", "-q:a", "4"], "ffmpeg", "i16"),
    ("opus.ogg", ["-c:a", "libopus", "-b:a", "64k"], "libopus", "i16"),
    ("opus.webm", ["-c:a", "libopus", "-b:a", "64k"], "libopus", "i16"),
]


def signal(top):
    """Stereo, both channels different, nothing between `top` hertz and 9 kHz."""
    t = np.arange(int(RATE * SECONDS)) / RATE
    pitch = 2 * np.pi * np.cumsum(140 + 20 * np.sin(2 * np.pi * 3 * t)) / RATE
    voice = sum(np.sin(k * pitch + k) / k for k in range(1, 19))
    chirp = np.sin(2 * np.pi * (200 * t + (top - 200) / (2 * SECONDS) * t**2))
    bursts = np.sin(2 * np.pi * 2_500 * t) * np.sin(2 * np.pi * 4 * t) ** 4
    above = np.sin(2 * np.pi * 9_000 * t) + np.sin(2 * np.pi * 13_000 * t) if top > 4_000 else 0
    # Smooth to the third derivative: a corner would spread over the whole band.
    fade = np.sin(np.pi / 2 * np.minimum(1, np.minimum(t, SECONDS - t) / 0.06)) ** 4
    left = (0.15 * voice + 0.2 * chirp + 0.05 * above) * fade
    right = (0.15 * voice + 0.2 * bursts) * fade
    return np.stack([left, right], axis=1)


def decode(path, how):
    """Samples [frames, channels] and rate, at the file's own rate."""
    if how == "soundfile":
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        return samples, rate
    probe = ["ffprobe", "-v", "error", "-select_streams", "a:0", "-of", "csv=p=0", "-show_entries"]
    rate, channels = (
        int(subprocess.check_output([*probe, f"stream={what}", path], text=True).strip().strip(","))
        for what in ("sample_rate", "channels")
    )
    decoder = ["-c:a", how] if how != "ffmpeg" else []
    raw = subprocess.check_output(["ffmpeg", "-v", "error", *decoder, "-i", path, "-f", "f32le", "-"])
    return np.frombuffer(raw, "<f4").reshape(-1, channels), rate


def main():
    os.makedirs(HERE, exist_ok=True)
    goldens = []
    with tempfile.TemporaryDirectory() as scratch:
        wide, narrow = (os.path.join(scratch, f"{name}.wav") for name in ("wide", "narrow"))
        soundfile.write(wide, signal(6_600), RATE, subtype="FLOAT")
        soundfile.write(narrow, signal(3_200), RATE, subtype="FLOAT")
        for name, arguments, how, kind in FILES:
            path = os.path.join(HERE, name)
            source = narrow if "-8k" in name else wide
            command = ["ffmpeg", "-v", "error", "-y", "-i", source, "-map_metadata", "-1", "-fflags", "+bitexact"]
            subprocess.check_call([*command, *arguments, path])
            samples, rate = decode(path, how)
            mono = samples.mean(axis=1)
            # The same as `librosa.load(path, sr=16000)`: mean of the channels, then soxr_hq, then ceil(n * 16000 / rate).
            reference = librosa.resample(mono, orig_sr=rate, target_sr=TARGET, res_type="soxr_hq")
            golden = os.path.join(HERE, f"{name}.{kind}")
            if kind == "f32":
                reference.astype("<f4").tofile(golden)
            else:
                np.clip(np.round(reference * 32_768), -32_768, 32_767).astype("<i2").tofile(golden)
            goldens.append({"file": name, "rate": rate, "channels": samples.shape[1], "frames": len(mono),
                            "reference": os.path.basename(golden), "decoder": how})
    versions = {
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "librosa": librosa.__version__,
        "soxr": soxr.__version__,
        "soundfile": soundfile.__version__,
        "libsndfile": soundfile.__libsndfile_version__,
        "ffmpeg": subprocess.check_output(["ffmpeg", "-version"], text=True).split()[2],
    }
    with open(os.path.join(HERE, "goldens.json"), "w", encoding="utf-8") as file:
        json.dump({"versions": versions, "files": goldens}, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
