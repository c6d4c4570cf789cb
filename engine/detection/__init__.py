"""Detection on images, folders, videos and cameras, and the files it writes."""
