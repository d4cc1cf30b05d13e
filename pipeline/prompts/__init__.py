"""From rows to prompt tokens: the template, and the CPU task that renders and tokenises it."""
