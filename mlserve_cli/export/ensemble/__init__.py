"""ensemble.toml → a package that runs other packages and processing steps as one model."""
