"""The header of an Avro object container file: https://avro.apache.org/docs/1.12.0/specification/#object-container-files."""

MAGIC = b"Obj\x01"
SYNC_BYTES = 16
HEADER = {
    "type": "record",
    "name": "org.apache.avro.file.Header",
    "fields": [
        {"name": "magic", "type": {"type": "fixed", "name": "magic", "size": len(MAGIC)}},
        {"name": "meta", "type": {"type": "map", "values": "bytes"}},
        {"name": "sync", "type": {"type": "fixed", "name": "sync", "size": SYNC_BYTES}},
    ],
}
