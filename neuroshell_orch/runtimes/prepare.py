"""A copy of a model whose weights lie in its data file exactly as the processor's kernels want them.

Owns the making of that copy: ``python -m neuroshell_orch.runtimes.prepare SOURCE OUT [--tune] [--background]``; with
``--tune`` the fastest number of threads is found, too (see ``tuning``), and printed as JSON; ``--made`` only that.

onnxruntime repacks most weights at load into anonymous memory, which can only be given back by unloading; a prepared
model maps them instead, so that a worker can hibernate. The copy fits one onnxruntime on one kind of processor (its
manifest says so, see ``workers.copies``) and takes more disk, as the file keeps the original weights besides. Must not
know who wants it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Final

import onnxruntime

from neuroshell_orch import encoders
from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes import aligning, comparing, files, splitting, tuning
from neuroshell_orch.runtimes.onnx import FAILURES, detail

CONFIG: Final = "genai_config.json"
TOKENIZER: Final = "tokenizer.json"
_MIN_SIZE: Final = "1024"
_VERSION: Final[str] = onnxruntime.__version__


def prepare(source: Path, out: Path) -> Path:
    """Write the prepared copy of ``source``, a runtime's folder or an ONNX file, into the empty folder ``out``.

    Returns what is loaded of it: the folder of a language model, or else a graph. Raises OrchError, also where the copy
    does not compute what the model does.
    """
    made = _write(source, out)
    if not comparing.alike(_loaded_of(source), made):
        raise OrchError(
            "load-failed",
            f"The prepared copy of {source} computed something else than the model, and was thrown away.",
            f"The model can be used as it is. Please report it, with the version of onnxruntime ({_VERSION}).",
        )
    return made


def _write(source: Path, out: Path) -> Path:
    if not source.is_dir():
        files.check_onnx(source)
        _graph(source, out / source.name)
        return out / source.name
    if not (source / CONFIG).exists():
        return _encoder(source, out)
    config = json.loads((source / CONFIG).read_bytes())
    data = files.check_genai(source, config)
    graphs = {path for path in source.rglob("*.onnx") if path.is_file()}
    for path in source.rglob("*"):
        target = out / path.relative_to(source)
        if path.is_dir() or path in data:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if path in graphs:
            _graph(path, target)
        elif path.name == TOKENIZER:
            target.write_bytes(_brief(path.read_bytes()))
            _sync(target)
        else:
            shutil.copyfile(path, target)
    return out


def _brief(tokenizer: bytes) -> bytes:
    """The same tokenizer, read in four fifths of the time and of the memory: pairs as texts, nothing between."""
    try:
        found = json.loads(tokenizer)
        merges = found["model"]["merges"]
        if all(isinstance(pair, list) and len(pair) == 2 and " " not in "".join(pair) for pair in merges):
            found["model"]["merges"] = [" ".join(pair) for pair in merges]
        return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, KeyError, TypeError):
        return tokenizer  # of another kind


def _encoder(source: Path, out: Path) -> Path:
    """Of an encoder only what is used: folders that others made hold the same weights in several forms."""
    graph = Path(encoders.read(source).graph)
    files.check_onnx(source / graph)
    for path in source.rglob("*.json"):
        target = out / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (out / graph).parent.mkdir(parents=True, exist_ok=True)
    _graph(source / graph, out / graph)
    return out / graph


def _graph(source: Path, target: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4
    graph = splitting.split_file(source)
    for key, value in {
        "session.model_external_initializers_file_folder_path": str(source.parent),
        "session.save_external_prepacked_constant_initializers": "1",
        "session.optimized_model_external_initializers_file_name": target.name + ".data",
        "session.optimized_model_external_initializers_min_size_in_bytes": _MIN_SIZE,
    }.items():
        options.add_session_config_entry(key, value)
    try:
        onnxruntime.InferenceSession(graph or str(source), options, ["CPUExecutionProvider"])
    except FAILURES as error:
        raise OrchError(
            "load-failed", f"{source} cannot be prepared: {detail(error)}", "It can be used as it is."
        ) from error
    aligning.align(target)
    for path in (target, target.with_name(target.name + ".data")):
        if path.exists():
            _sync(path)


def _loaded_of(source: Path) -> Path:
    """What is loaded of a model that is prepared already."""
    if not source.is_dir() or (source / CONFIG).exists():
        return source
    return source / encoders.read(source).graph


def _sync(path: Path) -> None:
    """To disk: pages that are not written out yet cannot be given back by the kernel."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def main(source: str, out: str, *flags: str) -> int:
    """The command: says on standard output how the model is fastest, or what went wrong, for others to pass on."""
    if "--background" in flags:
        os.nice(19)
    try:
        made = _loaded_of(Path(source)) if "--made" in flags else prepare(Path(source), Path(out))
    except OrchError as error:
        print(json.dumps([error.problem, error.message, error.hint]))  # noqa: T201 - this is its only output
        return 1
    print(json.dumps(tuning.tune_model(made) if "--tune" in flags else None))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
