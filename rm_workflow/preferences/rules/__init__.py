"""Rules that keep or drop candidates, one small file each."""
