"""Parts that spaces of DARTS-like cells share: operations, notation, network, supernet."""
