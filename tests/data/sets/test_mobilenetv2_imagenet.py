import hashlib


def test_mobilenet_file_is_the_one_that_its_name_says(have):
    path = have("mobilenetv2-imagenet")
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f"mobilenet_v2-{checksum[:8]}.pth"
