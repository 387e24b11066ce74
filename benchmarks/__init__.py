"""What siameselib is measured with."""
