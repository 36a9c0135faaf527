"""The model card: architecture, training, accuracy, usage and limits of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_space.serialization import from_dict

TEXT = """# {name}

A convolutional network of {parameters:,} learned parameters that classifies handwritten digits.

| | |
|---|---|
| input | float32 pixels in [0, 1], shape (N, 1, 28, 28), white digits on black; normalization is part of the network |
| output | (N, 10) logits |
| parameters | {parameters:,}, budget {budget:,} |
| multiply-adds | {multiply_adds:,} per image |
| network | `{network}` |
| training | {epochs} epochs on {trained_on:,} images of the MNIST training set, {optimizer}, {schedule} |
| search | trial {trial} of {trials} in study `{study}` |
{accuracy}

## Layers

| layer | output | parameters |
|---|---|--:|
{layers}

## Usage

The ONNX file needs onnxruntime and numpy, the pt2 file needs torch. `pixels` is the input described above.

```python
session = onnxruntime.InferenceSession("{name}.onnx")
logits = session.run(None, {{"pixels": pixels}})[0]
```

```python
network = torch.export.load("{name}.pt2").module()
logits = network(pixels)
```

`{name}.safetensors` holds the weights, and the architecture as JSON in its metadata.

## Evaluation and limits

{note}
The network was trained on single, centered, upright digits. It predicts a digit for any input.
"""

TEST_ROWS = """| test accuracy of these weights | {test_accuracy:.2%} |
| test accuracy over {n_seeds} seeds | mean {test_accuracy_mean:.3%}{spread}, worst {test_accuracy_worst:.2%} |"""

SPREAD = " (sd {test_accuracy_sd:.3%}, 95 % interval {test_accuracy_low:.3%} to {test_accuracy_high:.3%})"

VALIDATION_ROW = "| validation accuracy | {val_accuracy:.2%} |"

TEST_NOTE = """Models were selected by validation accuracy only. Each trained network was evaluated on the test set after its last epoch; later evaluations of the same weights only verify the result. Neither the network nor the seed was selected on the test set; the authors of a template that the search starts with may have selected it on the test set."""

VALIDATION_NOTE = """This is the validation accuracy used for model selection; expect slightly less on new data. `mnist-search finalize` evaluates on the test set."""


def markdown(name: str, card: Mapping[str, Any]) -> str:
    """The card of a champion as Markdown; ``name`` is that of its files."""
    has_test = card.get("test_accuracy") is not None
    spread = ""
    if has_test and card.get("test_accuracy_low") is not None:
        spread = SPREAD.format(**card)
    architecture, training = from_dict(card["architecture"]), from_dict(card["training"])
    layers = "\n".join(
        f"| {type(cost.layer).__name__} | {'x'.join(map(str, cost.output_shape))} | {cost.num_params:,} |"
        for cost in architecture.costs()
    )
    return TEXT.format(
        **{key: value for key, value in card.items() if key not in {"architecture", "training"}},
        name=name,
        epochs=training.epochs,
        optimizer=f"{type(training.optimizer).__name__} with peak learning rate {training.optimizer.lr:.4g}",
        schedule=f"{type(training.schedule).__name__} schedule",
        accuracy=(TEST_ROWS if has_test else VALIDATION_ROW).format(**card, spread=spread),
        layers=layers,
        note=TEST_NOTE if has_test else VALIDATION_NOTE,
    ).rstrip()
