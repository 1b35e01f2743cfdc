//! Turns what a terminal showed (ANSI colours on stdin) into a picture (SVG on
//! stdout): `CLICOLOR_FORCE=1 windlass show 2>&1 | cargo run -p windlass-report
//! --example svg > run.svg`.

use std::io::{Read as _, Write as _};

fn main() -> std::io::Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    std::io::stdout().write_all(windlass_report::render_svg("windlass run", &text).as_bytes())
}
