"""From rows to prompt tokens: the template, and the CPU task that fills and tokenises it."""
