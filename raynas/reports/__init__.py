"""Views of a history: report, TensorBoard, monitor, table."""
