"""`tirazh tune`: its flags, its run, and what it prints."""
