"""Gin files, shipped as package data so that `gin_configs/...` is found after pip install too."""
