"""Lists the input: files, directories, patterns, and what is refused or passed over in them."""
