"""What a training would take, before it starts: rows, sequences, steps, memory, room on the disk and time."""
