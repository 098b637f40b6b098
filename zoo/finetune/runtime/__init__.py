"""What training runs on: processes, memory, and private names of PyTorch."""
