"""What is shipped: the student as ONNX, and its speed."""
