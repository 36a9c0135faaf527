"""A model card: what a network is, how it came to be, what it can and cannot do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_space.serialization import from_dict

TEXT = """# {name}

A convolutional network of {parameters:,} learned parameters that reads handwritten digits.

| | |
|---|---|
| input | float32 pixels in [0, 1], shape (N, 1, 28, 28), white digits on black; it holds its own normalisation |
| output | (N, 10) logits |
| parameters | {parameters:,} of {budget:,} allowed |
| multiply-adds | {multiply_adds:,} an image |
| network | `{network}` |
| training | {epochs} epochs on {trained_on:,} images of MNIST's training set, {optimizer}, {schedule} |
| found by | a search of {trials} trials, study `{study}`, trial {trial} |
{accuracy}

## Layers

| layer | output | parameters |
|---|---|--:|
{layers}

## How to use it

With numpy and onnxruntime alone, or with torch alone; `pixels` as above.

```python
session = onnxruntime.InferenceSession("{name}.onnx")
logits = session.run(None, {{"pixels": pixels}})[0]
```

```python
network = torch.export.load("{name}.pt2").module()
logits = network(pixels)
```

`{name}.safetensors` has the weights, and the layers as JSON in its metadata.

## How far to trust it

{trust}
It knows single digits, centred and upright, as MNIST has them, and answers with a digit whatever it is shown.
"""

VALIDATION_OR_TEST = """| test accuracy of these weights | {test_accuracy:.2%} |
| test accuracy over {n_seeds} seeds | mean {test_accuracy_mean:.3%}{spread}, worst {test_accuracy_worst:.2%} |"""

VALIDATION_ROW = "| validation accuracy | {val_accuracy:.2%} |"

TEST_NOTE = """The search chose by validation images alone; the test set was opened once for each trained network, after its last epoch, and chose neither the network nor the seed."""

VALIDATION_NOTE = """The accuracy is on the validation images that the search chose by, and so promises a little more than it keeps. `mnist-search finalize` judges on the test set."""


def markdown(name: str, card: Mapping[str, Any]) -> str:
    """The card of a champion as people read it."""
    judged = card.get("test_accuracy") is not None
    spread = ""
    if judged and card.get("test_accuracy_low") is not None:
        spread = (
            " (sd {test_accuracy_sd:.3%}, 95 % interval {test_accuracy_low:.3%} to {test_accuracy_high:.3%})"
        )
        spread = spread.format(**card)
    architecture, training = from_dict(card["architecture"]), from_dict(card["training"])
    layers = "\n".join(
        f"| {type(cost.layer).__name__} | {'x'.join(map(str, cost.output_shape))} | {cost.num_params:,} |"
        for cost in architecture.costs()
    )
    return TEXT.format(
        **{key: value for key, value in card.items() if key not in {"architecture", "training"}},
        name=name,
        epochs=training.epochs,
        optimizer=f"{type(training.optimizer).__name__} with peak rate {training.optimizer.lr:.4g}",
        schedule=f"{type(training.schedule).__name__} schedule",
        accuracy=(VALIDATION_OR_TEST if judged else VALIDATION_ROW).format(**card, spread=spread),
        layers=layers,
        trust=TEST_NOTE if judged else VALIDATION_NOTE,
    ).rstrip()
