"""Reads the log out of an export (docs/formats/export.md)."""
import struct


def log_records(export):
    """The records' (sequence, content kind, payload)."""
    assert export[:8] == b"MNEMOEXP"
    at, records = 8 + 4, []
    while at < len(export):
        kind, length = struct.unpack_from("<BI", export, at)
        body = export[at + 5:at + 5 + length]
        at += 5 + length + 8
        if kind == 4:
            _, sequence, _, _, content = struct.unpack_from("<QQqqB", body)
            records.append((sequence, content, body[33:]))
    return records
