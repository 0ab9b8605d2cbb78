"""What images and sounds share: names as strings, class folders and zips, labels, drawing pairs, splits."""
