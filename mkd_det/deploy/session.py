"""Runs ONNX files with onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .graph import INPUT


class OnnxSession:
    """A session of onnxruntime.

    Args:
        content: The ONNX file.
        device: 'cpu', or a GPU where onnxruntime has a provider for it.
        threads: CPU threads; torch's number by default.

    Attributes:
        provider: Who computes, as onnxruntime calls it.
        names: Names of the outputs.
    """

    def __init__(
        self, content: bytes, device: str = 'cpu', threads: int | None = None
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Waiting threads would take time from torch, which computes in between.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        options.intra_op_num_threads = threads or torch.get_num_threads()
        available = onnxruntime.get_available_providers()
        wanted = ['CPUExecutionProvider']
        if device.startswith('cuda') and 'CUDAExecutionProvider' in available:
            wanted.insert(0, 'CUDAExecutionProvider')
        self.session: Any = onnxruntime.InferenceSession(
            content, options, providers=wanted
        )
        self.provider: str = self.session.get_providers()[0]
        self.names: list[str] = [out.name for out in self.session.get_outputs()]

    def run(self, images: Tensor) -> dict[str, np.ndarray]:
        """Return the outputs by name.

        Args:
            images: (N, 3, H, W).
        """
        values = self.session.run(None, {INPUT: images.cpu().numpy()})
        return dict(zip(self.names, values, strict=True))

    @torch.no_grad()
    def compare(
        self, graph: Callable[[Tensor], tuple[Tensor, ...]], images: Tensor
    ) -> dict[str, float]:
        """Return how far each output is from torch's.

        Args:
            graph: What the file was made from.
            images: (N, 3, H, W).

        Returns:
            The largest absolute difference, divided by the largest absolute value of
            torch's output, or by 1 if that is larger. Infinity for another shape.
        """
        ours, found = graph(images), self.run(images)
        return {
            name: _difference(tensor.numpy(), found[name])
            for name, tensor in zip(self.names, ours, strict=True)
        }


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.shape != theirs.shape:
        return float('inf')
    scale = max(1.0, float(np.abs(ours).max(initial=0.0)))
    return float(np.abs(ours - theirs).max(initial=0.0)) / scale
