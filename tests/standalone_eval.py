"""Print the accuracy of an exported file on the MNIST test set, without mnist-search.

    python standalone_eval.py FILE FOLDER

An .onnx file needs onnxruntime and numpy, a .pt2 file torch; FOLDER holds the IDX files.
"""

import gzip
import sys
from pathlib import Path


def read(folder: str, name: str) -> bytes:
    path = Path(folder) / name
    return path.read_bytes() if path.exists() else gzip.decompress(path.with_name(f"{name}.gz").read_bytes())


def evaluate_onnx(file: str, pixels: bytes, labels: bytes) -> float:
    import numpy as np
    import onnxruntime

    images = np.frombuffer(pixels, np.uint8).reshape(-1, 1, 28, 28).astype(np.float32) / 255
    session = onnxruntime.InferenceSession(file)
    predictions = session.run(None, {"pixels": images})[0].argmax(1)
    return float((predictions == np.frombuffer(labels, np.uint8)).mean())


def evaluate_pt2(file: str, pixels: bytes, labels: bytes) -> float:
    import torch

    images = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(-1, 1, 28, 28).float() / 255
    network = torch.export.load(file).module()
    with torch.no_grad():
        predictions = torch.cat([network(batch).argmax(1) for batch in images.split(1000)])
    return (predictions == torch.frombuffer(bytearray(labels), dtype=torch.uint8)).double().mean().item()


if __name__ == "__main__":
    file, folder = sys.argv[1:]
    evaluate = evaluate_onnx if file.endswith(".onnx") else evaluate_pt2
    pixels = read(folder, "t10k-images-idx3-ubyte")[16:]
    sys.stdout.write(f"{evaluate(file, pixels, read(folder, 't10k-labels-idx1-ubyte')[8:])}\n")
