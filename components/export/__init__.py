"""Export one variant and check its parity with PyTorch."""
