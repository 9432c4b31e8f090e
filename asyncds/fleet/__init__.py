"""Which generators are well and have which weights: state machines."""
