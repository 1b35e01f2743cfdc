//! JSON lines: one envelope a line, as the journal has it.

use std::io::{self, Write};

use windlass_model::event::Envelope;

use crate::reporter::Reporter;

#[derive(Debug)]
pub struct Json<W> {
    out: W,
}

impl<W: Write + Send> Json<W> {
    pub fn new(out: W) -> Self {
        Self { out }
    }
}

impl<W: Write + Send> Reporter for Json<W> {
    fn event(&mut self, envelope: &Envelope) -> io::Result<()> {
        // In one write, so that lines of two writers do not mix.
        let mut line = serde_json::to_vec(envelope)?;
        line.push(b'\n');
        self.out.write_all(&line)?;
        self.out.flush()
    }
}
