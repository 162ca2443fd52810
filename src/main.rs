//! Owns the entry point. Must not know: anything but the command line.

fn main() {}
