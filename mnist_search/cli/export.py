"""Verbs that write a network to files and use them: export, verify, predict."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, echo

from mnist_search.cli import options as opt
from mnist_search.cli.options import option
from mnist_search.cli.output import print_fields, print_rows
from mnist_search.errors import MnistSearchError

ModelFormat = StrEnum("ModelFormat", ["PT2", "ONNX", "SAFETENSORS"])
FileArgument = Annotated[Path, Argument(help="A .pt2, .onnx or .safetensors file.")]


def export(
    study: opt.StudyArgument,
    to: Annotated[
        list[ModelFormat] | None, option("File format; may be repeated.", "--to", show_default="pt2")
    ] = None,
    output: Annotated[Path, option("Folder to write into.", "--output", "-o")] = Path(),
    trial: Annotated[
        int | None, option("Number of a trial to export instead of the champion.", min=0)
    ] = None,
    publish: Annotated[
        bool, option("Write OUTPUT/BUDGET/model.* in every format; only after finalize.", "--publish")
    ] = False,
    storage: opt.StorageOption = opt.DEFAULT_STORAGE,
) -> None:
    """Write a study's champion, with a model card; pt2 and ONNX files do not need mnist-search.

    The champion is the finalist with the best mean validation accuracy, trained on all 60,000 images with
    the first seed; before finalize it is the best trial. The files contain no pickle.
    """
    from mnist_search.evaluation.champion_files import export_champion

    for path in export_champion(storage, study, trial, to or [], output, publish=publish):
        echo(path)


def verify(
    file: FileArgument, data_dir: opt.DataOption = None, output_format: opt.FormatOption = "table"
) -> None:
    """Load an exported network, count its parameters, and evaluate it on the data set named in its model card."""
    from mnist_search.export.inference import verify_file

    document, agrees = verify_file(file, data_dir)
    print_fields(document, output_format)
    if not agrees:
        raise MnistSearchError(f"{file} is not the network that its model card describes; export it again")


def predict(
    file: FileArgument,
    images: Annotated[list[Path], Argument(help="PNG or JPEG files of one digit each.")],
    output_format: opt.FormatOption = "table",
) -> None:
    """Classify images of handwritten digits, with the probability of every digit.

    Images are preprocessed as MNIST: inverted if dark on light, cropped, scaled and centered. The exit
    code is 1 if some of them could not be read.
    """
    from mnist_search.export.inference import predict_images

    rows, errors = predict_images(file, images)
    if len(images) == len(errors) == 1:
        raise errors[0]
    columns = ["image", "digit", "probability"]
    if output_format != "csv":
        columns.append("probabilities")
    if errors:
        columns.append("error")
    print_rows(rows, output_format, columns)
    if errors:
        raise MnistSearchError(f"{len(errors)} of {len(images)} images were not classified: {errors[0]}")
