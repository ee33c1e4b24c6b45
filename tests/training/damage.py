"""What may happen to the bytes of a checkpoint."""

DAMAGE = {
    "cut": lambda content: content[:100],
    "cut by one": lambda content: content[:-1],
    "empty": lambda content: b"",
    "without its digest": lambda content: content[:-64],
    "a flipped bit of a weight": lambda content: flipped(content, len(content) // 2),
    "a flipped bit of the digest": lambda content: flipped(content, len(content) - 3),
    "a web page": lambda content: b"<html>not found</html>" * 10,
}


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
