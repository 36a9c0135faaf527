"""Compute mode, by rule."""

from __future__ import annotations

import torch

from mnist_search.training.device import CPU, NATIVE_BF16, ComputeMode, select_compute_mode


def test_compute_mode_follows_from_the_hardware():
    mode = select_compute_mode(CPU)

    native = any(torch.cpu.get_capabilities().get(name) is True for name in NATIVE_BF16)
    assert mode == ComputeMode("bf16" if native else "fp32", channels_last=True, graph=False)
    assert select_compute_mode(torch.device("meta")) == ComputeMode("fp32")


def test_precision_option_overrides_the_rule():
    assert [select_compute_mode(CPU, name).precision for name in ("bf16", "fp32")] == ["bf16", "fp32"]
