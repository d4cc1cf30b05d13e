"""What a run asks of the machines of a Ray cluster before it works on them."""
