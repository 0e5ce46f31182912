"""Which outputs of an ONNX graph have a sigmoid or a softmax behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .graph import INPUT, Output

_ACTIVATIONS = ('Sigmoid', 'Softmax')
# Names of outputs that are class scores, as heads of mmdet call them.
_SCORES = ('cls', 'heat', 'logits')


def with_activated(content: bytes, outputs: Sequence[Output]) -> list[Output]:
    """Return outputs that say whether the graph itself activates them.

    Args:
        content: The graph as ONNX.
        outputs: Its outputs.
    """
    import onnx

    graph = onnx.load_from_string(content).graph
    makers = {name: node for node in graph.node for name in node.output}
    return [replace(one, activated=is_activated(makers, one.name)) for one in outputs]


def is_activated(makers: dict[str, Any], output: str) -> bool:
    """Return whether a sigmoid or a softmax lies on every path to an output.

    A gate (x times the sigmoid of y) activates nothing: x gets there without it. A
    logarithm takes an activation back.

    Args:
        makers: The node that yields each tensor of the graph.
        output: Name of the output.
    """
    seen, todo, found = {output}, [output], False
    while todo:
        name = todo.pop()
        if name == INPUT:
            return False
        node = makers.get(name)
        if node is None or node.op_type == 'Shape':
            continue  # a weight or a size, which carry no image
        if node.op_type in _ACTIVATIONS:
            found = True
            continue
        if node.op_type == 'Log':
            return False
        new = set(node.input) - seen - {''}
        seen |= new
        todo += new
    return found


def meant_activation(head: Any, outputs: Sequence[Output]) -> str:
    """Return what the class scores are meant for: sigmoid, softmax or none.

    Args:
        head: The head that yields them; None for a classifier.
        outputs: All outputs, see `with_activated`.
    """
    scores = [one for one in outputs if any(part in one.name for part in _SCORES)]
    if any(one.activated for one in scores or outputs[:1]):
        return 'none'
    if head is None:
        return 'softmax'
    loss = getattr(head, 'loss_cls', None)
    # Heads without a loss of this name yield heat maps, one for each class.
    usual = getattr(loss, 'use_sigmoid', False) if loss is not None else True
    return 'sigmoid' if getattr(head, 'use_sigmoid_cls', usual) else 'softmax'
