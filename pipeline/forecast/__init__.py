"""What a job would do, before it starts: its tokens, memory, time, and what it finds in its output."""
