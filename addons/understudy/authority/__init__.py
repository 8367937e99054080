"""The proxy's certificate authority, trust bundles, and the environment that a sandbox needs."""
