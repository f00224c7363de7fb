//! Placeholder until its author commits.
fn main() {}
