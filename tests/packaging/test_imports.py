"""Who may import whom: runtime and training never meet, and the runtime needs neither torch nor onnx."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "runtime/edgecodec": {"edgecodec_export", "edgecodec_training", "torch", "onnx", "onnxscript", "scipy", "pandas"},
    "training/edgecodec_training": {"edgecodec", "edgecodec_export", "edgecodec_models", "onnx", "onnxruntime"},
    "models/edgecodec_models": {"edgecodec", "edgecodec_export", "edgecodec_training", "torch", "numpy"},
    "export/edgecodec_export": {"edgecodec_models"},
}


def imports(path: Path) -> set[str]:
    """Top-level names of all absolute imports in a file, those inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_keep_to_the_house(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        assert not imports(file) & FORBIDDEN[package], file
