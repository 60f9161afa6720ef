"""Real inputs of a model: a folder of .npy and .npz files, each with one sample or batch."""

from pathlib import Path

import numpy as np
import onnx

from .failure import Failure

MOST_ROWS = 32  # taken at once of a file with many


def graph_inputs(model):
    """The inputs that a caller must give, as {name: (type, dimensions)}; a dimension is None where it is free."""
    weights = {weight.name for weight in model.graph.initializer}
    found = {}
    for value in model.graph.input:
        if value.name in weights:
            continue
        tensor = value.type.tensor_type
        dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
        found[value.name] = (onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type), dims)
    return found


def files_of(folder):
    folder = Path(folder)
    if not folder.is_dir():
        raise Failure(f'"{folder}" is no folder; expected one of .npy or .npz files', "not_found")
    files = sorted(path for path in folder.iterdir() if path.suffix in (".npy", ".npz"))
    if not files:
        raise Failure(f'the folder "{folder}" holds no inputs: expected .npy or .npz files')
    return files


def read(path, inputs):
    """The arrays of one file by input, checked against the model."""
    try:
        content = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise Failure(f'cannot read "{path}": {error}') from None
    if path.suffix == ".npy":
        if len(inputs) != 1:
            raise Failure(f'"{path}": the model has the inputs {", ".join(inputs)}; give .npz files with an array for each')
        arrays = {next(iter(inputs)): content}
    else:
        with content:
            names = content.files
            if len(names) == 1 and len(inputs) == 1:
                arrays = {next(iter(inputs)): content[names[0]]}
            else:
                missing = [name for name in inputs if name not in names]
                if missing:
                    raise Failure(f'"{path}": expected arrays named {", ".join(inputs)}, got {", ".join(names) or "none"}')
                arrays = {name: content[name] for name in inputs}
    for name, (dtype, dims) in inputs.items():
        array = arrays[name]
        fits = array.ndim == len(dims) and all(want in (None, have) for want, have in zip(dims[1:], array.shape[1:]))
        if array.dtype != dtype or not fits or array.size == 0:
            shape = ",".join("?" if d is None else str(d) for d in dims)
            raise Failure(f'input "{name}": expected {dtype} [{shape}], got {array.dtype} {list(array.shape)} from "{path}"')
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise Failure(f'input "{name}": "{path}" holds values that are not finite')
    return arrays


def batches(path, inputs, most_rows=MOST_ROWS):
    """The arrays of one file in pieces that the model takes, of `most_rows` rows where their number is free."""
    arrays = read(path, inputs)
    scalars = [name for name, (_, dims) in inputs.items() if not dims]
    counts = {arrays[name].shape[0] for name in inputs if name not in scalars}
    fixed = {dims[0] for _, dims in inputs.values() if dims and dims[0] is not None}
    if len(counts) != 1 or len(fixed) > 1:  # no common first dimension: the file is one request
        yield arrays
        return
    rows, step = counts.pop(), next(iter(fixed), most_rows)
    if rows < step and fixed:
        raise Failure(f'"{path}" holds {rows} items, and the model takes exactly {step}')
    for first in range(0, rows - (step - 1 if fixed else 0), step):
        yield {name: array if name in scalars else array[first:first + step] for name, array in arrays.items()}
