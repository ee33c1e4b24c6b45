"""Files that others have published: checkpoints, statistics, calibration sets."""
