//! Nothing: each component is an example.
