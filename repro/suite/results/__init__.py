"""The committed results: how they get there, what holds them to the code, and who checks it."""
