"""Layer 4: a trained network as a file that needs no nasctl: ONNX, torch.export, PyTorch."""
