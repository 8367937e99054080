"""Gateway presets: one YAML file each, and the pure code that applies them."""
