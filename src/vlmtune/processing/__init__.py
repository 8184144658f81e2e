"""Conversations and images as tensors: one code path, shared by training and inference."""
