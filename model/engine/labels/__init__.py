"""Labels of a job: their trie of tokens, and the scores that the logits of its nodes give."""
