"""The mathematics of LWD: pure functions from tensors to tensors, one per equation."""
