"""Messages about the end of a run: to an address on the network, or to a command on this machine."""
