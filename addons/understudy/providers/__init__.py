"""Provider presets: one YAML file each, read by :mod:`understudy.providers.preset`."""
