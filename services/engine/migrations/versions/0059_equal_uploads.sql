-- As its owner says: it is compared with what the same principal uploads later, and never verified.
ALTER TABLE uploads ADD COLUMN sha256 text;
