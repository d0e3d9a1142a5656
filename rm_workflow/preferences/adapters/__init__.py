"""Schema readers, one small file each."""
