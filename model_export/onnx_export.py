"""torch → ONNX with the settings that were found to hold: dynamo exporter, opset 20, no local paths in the file."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

OPSET = 20


def export_graph(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    axes: Mapping[str, Mapping[int, str]],
    outputs: Sequence[str],
    path: Path,
) -> onnx.ModelProto:
    """Write `module` as one self-contained ONNX file; return what was written.

    `inputs` are example tensors in the order of forward's arguments, two or more long on each varying axis (1 would be
    taken for a constant); `axes` names the varying axes of each input.
    """
    shapes = tuple(dict(axes.get(name, {})) for name in inputs)
    with quiet():
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[_OUTPUT + name for name in outputs],
            dynamic_shapes=(shapes,)
            if isinstance(module, OneMethod)
            else shapes,  # *inputs is one argument to torch
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export(dynamo=True) returned no program")
    model = program.model_proto
    _strip(model)
    _rename(model)
    onnx.checker.check_model(model)
    write_graph(model, path)
    return model


def write_graph(model: onnx.ModelProto, path: Path) -> None:
    """The same model gives the same bytes."""
    path.write_bytes(model.SerializeToString(deterministic=True))


def in_half_precision(path: Path) -> onnx.ModelProto:
    """The graph at `path` with weights and inner values in f16, inputs and outputs as they were: for a GPU."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quiet():
        half: onnx.ModelProto = convert_float_to_float16(onnx.load(path), keep_io_types=True)
    return half


_OUTPUT = "output:"
"""The exporter does not notice when an output's name is also that of an inner value (`embedding` is one in BERT)."""


class OneMethod(nn.Module):
    """One method of a module as a module of its own; a dict of outputs becomes a tuple in its order."""

    def __init__(self, module: nn.Module, method: str) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        result = getattr(self.module, self.method)(*inputs)
        return tuple(result.values()) if isinstance(result, dict) else result


def _strip(model: onnx.ModelProto) -> None:
    """Drop stack traces and local paths, which the exporter leaves in metadata_props and doc strings."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.value_info[:]
    if model.functions or any(a.HasField("g") for node in graph.node for a in node.attribute):
        raise RuntimeError(
            "the exported graph has functions or subgraphs, whose names this exporter does not rename"
        )


def _rename(model: onnx.ModelProto) -> None:
    """Number the inner values, so that outputs can bear their own names."""
    graph = model.graph
    outer = {value.name for value in (*graph.input, *graph.initializer)}
    names: dict[str, str] = {}
    for node in graph.node:
        for name in node.output:
            if name and name not in outer:
                names[name] = name.removeprefix(_OUTPUT) if name.startswith(_OUTPUT) else f"v{len(names)}"
    for index, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{index}"
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for output in graph.output:
        output.name = names[output.name]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter prints the graphs of its first attempts and warns of torchvision: nothing a user can act on."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    printed = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
