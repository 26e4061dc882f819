"""What a node believes and wants: pure functions of state, event and time. No I/O lives here."""
