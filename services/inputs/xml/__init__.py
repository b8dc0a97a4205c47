"""Records of an XML document: the elements of one name."""
