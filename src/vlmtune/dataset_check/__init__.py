"""Reads every row of a dataset before GPU time is spent: findings, leakage, near-duplicates, and a page about them."""
