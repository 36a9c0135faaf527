"""Judge a published network on MNIST's test set with nothing of ours; run in a bare environment.

    python standalone_eval.py FILE FOLDER

Needs onnxruntime and numpy for an .onnx file, and torch alone for a .pt2 file; prints the accuracy.
"""

import gzip
import sys
from pathlib import Path


def read(folder: str, name: str) -> bytes:
    path = Path(folder) / name
    return path.read_bytes() if path.exists() else gzip.decompress(path.with_name(f"{name}.gz").read_bytes())


def with_onnxruntime(file: str, pixels: bytes, labels: bytes) -> float:
    import numpy as np
    import onnxruntime

    images = np.frombuffer(pixels, np.uint8).reshape(-1, 1, 28, 28).astype(np.float32) / 255
    session = onnxruntime.InferenceSession(file)
    answers = session.run(None, {"pixels": images})[0].argmax(1)
    return float((answers == np.frombuffer(labels, np.uint8)).mean())


def with_torch(file: str, pixels: bytes, labels: bytes) -> float:
    import torch

    images = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(-1, 1, 28, 28).float() / 255
    network = torch.export.load(file).module()
    with torch.no_grad():
        answers = torch.cat([network(part).argmax(1) for part in images.split(1000)])
    return (answers == torch.frombuffer(bytearray(labels), dtype=torch.uint8)).double().mean().item()


if __name__ == "__main__":
    file, folder = sys.argv[1:]
    judge = with_onnxruntime if file.endswith(".onnx") else with_torch
    pixels = read(folder, "t10k-images-idx3-ubyte")[16:]
    sys.stdout.write(f"{judge(file, pixels, read(folder, 't10k-labels-idx1-ubyte')[8:])}\n")
