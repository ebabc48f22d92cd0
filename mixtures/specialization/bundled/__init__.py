"""The domain that is installed with the package: a harbour, with its ships, berths and notices."""
