"""The graph that steps whole runs of events: the exported step as the body of an ONNX `Scan`.

Written by hand, since torch's exporter would unroll the loop. The state is rounded to the precision that it is kept in after
every event, so no cut of a run into batches shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.helper import make_graph, make_model, make_node, make_tensor_value_info

Node = onnx.NodeProto


def scanned(step: onnx.ModelProto, hidden: int, dim: int) -> onnx.ModelProto:
    """state (B, H), item (T, B, D), type, gap, value (T, B) → next_state (B, H), after T events of each user.

    What does not depend on the state is computed for all T · B events before the loop.
    """
    before, loop = _around_state(step.graph.node)
    made = {name for each in before for name in each.output}
    sequences = sorted({name for each in loop for name in each.input} & made)
    rows = {"item": [-1, dim], "type": [-1], "gap": [-1], "value": [-1]}
    nodes = [
        *(_constant(f"{name}_shape", shape) for name, shape in rows.items()),
        *(make_node("Reshape", [name, f"{name}_shape"], [f"{name}_rows"]) for name in rows),
        *(_renamed(each, {name: f"{name}_rows" for name in rows}) for each in before),
        make_node("Shape", ["type"], ["axes"]),
        _constant("width", [-1]),
        make_node("Concat", ["axes", "width"], ["by_time"], axis=0),
        *(make_node("Reshape", [name, "by_time"], [f"{name}_by_time"]) for name in sequences),
        make_node(
            "Scan",
            ["state", *(f"{name}_by_time" for name in sequences)],
            ["next_state"],
            body=_body(loop, sequences, hidden),
            num_scan_inputs=len(sequences),
        ),
    ]
    number, whole = TensorProto.FLOAT, TensorProto.INT64
    inputs = [
        make_tensor_value_info("state", number, ["B", hidden]),
        make_tensor_value_info("item", number, ["T", "B", dim]),
        make_tensor_value_info("type", whole, ["T", "B"]),
        make_tensor_value_info("gap", number, ["T", "B"]),
        make_tensor_value_info("value", number, ["T", "B"]),
    ]
    output = make_tensor_value_info("next_state", number, ["B", hidden])
    graph = make_graph(nodes, "steps", inputs, [output], list(step.graph.initializer))
    model = make_model(graph, opset_imports=step.opset_import)
    model.ir_version, model.producer_name = step.ir_version, step.producer_name
    onnx.checker.check_model(model)
    return model


def _around_state(nodes: Sequence[Node]) -> tuple[list[Node], list[Node]]:
    """The nodes that do not depend on the state, and those that do, each in an order in which they can be computed."""
    known, before, loop = {"state"}, [], []
    for node in nodes:
        if known.intersection(node.input):
            known.update(node.output)
            loop.append(node)
        else:
            before.append(node)
    return before, loop


def _body(loop: list[Node], sequences: list[str], hidden: int) -> onnx.GraphProto:
    number = TensorProto.FLOAT
    nodes = [
        *(_renamed(node, {"next_state": "stepped"}) for node in loop),
        make_node("Cast", ["stepped"], ["half"], to=TensorProto.FLOAT16),
        make_node("Cast", ["half"], ["rounded"], to=number),
    ]
    inputs = [make_tensor_value_info(name, number, ["B", "W"]) for name in ("state", *sequences)]
    return make_graph(nodes, "step", inputs, [make_tensor_value_info("rounded", number, ["B", hidden])])


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    """The node with some of its tensors under other names."""
    copy = Node()
    copy.CopyFrom(node)
    for side in (copy.input, copy.output):
        side[:] = [names.get(name, name) for name in side]
    return copy


def _constant(name: str, value: list[int]) -> Node:
    return make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value, np.int64)))
