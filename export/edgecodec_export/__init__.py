"""Export of a trained codec to a bundle: ONNX graphs with a run-time stage count, and their verification."""
