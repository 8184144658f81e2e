"""Conversations and images as tensors: the one route that training and inference share."""
