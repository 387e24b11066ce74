"""The engine against its peers: parity, then time and memory of every batch loss."""
