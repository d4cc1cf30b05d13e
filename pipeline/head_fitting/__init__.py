"""The linear head of a classify job: embeds its examples, fits the head and stores it in the output."""
