"""What a part of each line format is called, so that programs that go by the name can read it."""

SUFFIX_OF_FORMAT = {"jsonl": ".jsonl", "csv": ".csv", "tsv": ".tsv", "text": ".txt", "fixed": ".dat"}
