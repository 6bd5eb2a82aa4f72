"""The scorers' graphs: the trained query, then products or a top-k over a catalogue that is an input.

They are written by hand, as torch's exporter would neither leave out a transposition nor search in groups; what they
compute is compared with `UserModel.score` before an artefact is published.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from streamer.core.manifest import GROUP

Node = onnx.NodeProto
DEVICE_SCORERS = {"device_scorer.onnx": False, "device_scorer_f16.onnx": True}
"""File → whether its scores are of half precision."""
DEVICE_OPSET = 18
"""onnxruntime's CUDA kernel of ReduceMax is the one of opset 18, and none takes that of opset 20."""


def all_products(query: onnx.ModelProto, dim: int) -> onnx.ModelProto:
    """state (B, H), items (D, N) f32 → product (B, N) f32: scores without their biases.

    Items lie transposed, so that the product reads them as they are.
    """
    inputs = [_value("query", TensorProto.FLOAT, ["B", dim]), _value("items", TensorProto.FLOAT, [dim, "N"])]
    outputs = [_value("product", TensorProto.FLOAT, ["B", "N"])]
    return _after(query, [_node("MatMul", ["query", "items"], "product")], inputs, outputs)


def exact_scorer(query: onnx.ModelProto, dim: int) -> onnx.ModelProto:
    """state (B, H), items (D, N) f32, bias (N) f32, excluded (M, 2) i64: row of state, row of items, k (1) i64
    → scores (B, K) f32, rows (B, K) i64, best first, ties by the lowest row.

    For who serves an artefact with onnxruntime alone; a worker on the CPU selects from `all_products`, several times faster.
    """
    nodes = [
        _node("MatMul", ["query", "items"], "product"),
        _node("Add", ["product", "bias"], "all"),
        helper.make_node("Constant", [], ["lowest"], value=_scalar(-np.inf, TensorProto.FLOAT)),
        helper.make_node("Shape", ["excluded"], ["pairs"], start=0, end=1),
        _node("Expand", ["lowest", "pairs"], "updates"),
        _node("ScatterND", ["all", "excluded", "updates"], "left"),
        helper.make_node("TopK", ["left", "k"], ["scores", "rows"]),
    ]
    inputs = [
        _value("query", TensorProto.FLOAT, ["B", dim]),
        _value("items", TensorProto.FLOAT, [dim, "N"]),
        _value("bias", TensorProto.FLOAT, ["N"]),
        _value("excluded", TensorProto.INT64, ["M", 2]),
        _value("k", TensorProto.INT64, [1]),
    ]
    return _after(query, nodes, inputs, _best("rows"))


def grouped_scorer(query: onnx.ModelProto, dim: int, *, half: bool) -> onnx.ModelProto:
    """The same for a device: the k best lie in the k groups whose best items are best, so the wide top-k is one over groups.

    items (D, P) and bias (P), f16 where `half`: P is GROUP · G, and column j · G + g holds row g · GROUP + j, so that a
    group is a run of rows (of equal groups the first one has the lower rows) and its maximum is one over whole rows of
    memory. groups (1) i64 is G, at least k. excluded (M, 2) names columns. → scores (B, K) f32, columns (B, K) i64.
    """
    query = _relabelled(query, DEVICE_OPSET)
    number = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    steps = np.arange(GROUP, dtype=np.int64)
    nodes = [
        _node("Cast", ["query"], "typed", to=number),
        _node("MatMul", ["typed", "items"], "product"),
        _node("Add", ["product", "bias"], "all"),
        *_minus_infinity("all", "excluded", number),
        _constant("shape", [0, GROUP, -1]),
        _constant("axis", [1]),
        _node("Reshape", ["left", "shape"], "grouped"),
        _node("ReduceMax", ["grouped", "axis"], "best", keepdims=0),
        helper.make_node("TopK", ["best", "k"], ["_best", "unordered"]),
        helper.make_node("TopK", ["unordered", "k"], ["group", "_order"], largest=0),
        _constant("steps", steps),
        _node("Mul", ["steps", "groups"], "offsets"),
        _constant("last", [2]),
        _node("Unsqueeze", ["group", "last"], "group3"),
        _node("Add", ["group3", "offsets"], "candidate3"),
        _constant("flat", [0, -1]),
        _node("Reshape", ["candidate3", "flat"], "candidate"),
        _node("GatherElements", ["left", "candidate"], "their", axis=1),
        helper.make_node("TopK", ["their", "k"], ["top", "at"]),
        _node("Cast", ["top"], "scores", to=TensorProto.FLOAT),
        _node("GatherElements", ["candidate", "at"], "columns", axis=1),
    ]
    inputs = [
        _value("query", TensorProto.FLOAT, ["B", dim]),
        _value("items", number, [dim, "P"]),
        _value("bias", number, ["P"]),
        _value("groups", TensorProto.INT64, [1]),
        _value("excluded", TensorProto.INT64, ["M", 2]),
        _value("k", TensorProto.INT64, [1]),
    ]
    return _after(query, nodes, inputs, _best("columns"))


def _minus_infinity(scores: str, pairs: str, number: int) -> list[Node]:
    """`left`: the scores, -inf at the pairs. The updates are computed from the pairs: a shape would be read on the CPU."""
    return [
        _constant("first", 0),
        _node("Gather", [pairs, "first"], "user", axis=1),
        _node("Cast", ["user"], "finite", to=number),
        helper.make_node("Constant", [], ["zero"], value=_scalar(0.0, number)),
        helper.make_node("Constant", [], ["lowest"], value=_scalar(-np.inf, number)),
        _node("Mul", ["finite", "zero"], "zeros"),
        _node("Add", ["zeros", "lowest"], "updates"),
        _node("ScatterND", [scores, pairs, "updates"], "left"),
    ]


def _relabelled(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The same graph under another opset; raises RuntimeError if one of its operators means something else there."""
    (now,) = (each.version for each in model.opset_import if not each.domain)
    for kind in {node.op_type for node in model.graph.node}:
        versions = {onnx.defs.get_schema(kind, version).since_version for version in (now, opset)}
        if len(versions) > 1:
            raise RuntimeError(
                f"{kind} is not the same in opsets {now} and {opset}: export the query with {opset}"
            )
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.opset_import[:]
    copy.opset_import.append(helper.make_opsetid("", opset))
    return copy


def _best(rows: str) -> list[onnx.ValueInfoProto]:
    return [_value("scores", TensorProto.FLOAT, ["B", "K"]), _value(rows, TensorProto.INT64, ["B", "K"])]


def _after(
    query: onnx.ModelProto,
    nodes: list[Node],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "search", inputs, outputs)
    search = helper.make_model(graph, opset_imports=query.opset_import)
    search.ir_version = query.ir_version
    prefixed = compose.add_prefix(query, "user_", rename_inputs=False, rename_outputs=False)
    merged = compose.merge_models(prefixed, search, io_map=[("query", "query")])
    merged.producer_name = query.producer_name
    del merged.opset_import[1:]  # it has the same one of both
    onnx.checker.check_model(merged)
    return merged


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Node:
    return helper.make_node(kind, inputs, [output], **attributes)


def _constant(name: str, value: object) -> Node:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value, np.int64)))


def _scalar(value: float, number: int) -> onnx.TensorProto:
    dtype = np.float16 if number == TensorProto.FLOAT16 else np.float32
    return numpy_helper.from_array(np.array(value, dtype))


def _value(name: str, number: int, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, number, shape)
