"""Reports of studies whose datasets have metrics of their own: arms by datasets."""
