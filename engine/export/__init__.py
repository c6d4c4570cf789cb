"""Exported models: made, quantised, and proved against PyTorch."""
