"""Values of settings as YAML: a strict reader, and the settings that are mappings or files."""
