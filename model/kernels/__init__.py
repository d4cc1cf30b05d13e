"""The engine's own kernels, in C for CPUs: compiled where they run, with the plain torch way beside each of them."""
