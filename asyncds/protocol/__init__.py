"""The protocol between processes: messages, codec, batches."""
