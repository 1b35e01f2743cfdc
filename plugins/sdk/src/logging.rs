//! [`debug!`](crate::debug), [`info!`](crate::info), [`warn!`](crate::warn)
//! and [`error!`](crate::error), formatted as `format!` does.

use std::fmt;

use crate::log::{self, Level};

/// Bytes of one call; the interface allows 64 KiB.
const MAX_MESSAGE: usize = 60 * 1_024;

#[doc(hidden)]
pub fn write(level: Level, message: fmt::Arguments<'_>) {
    let message = message.to_string();
    let mut end = message.len().min(MAX_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    log::write(level, &message[..end]);
}

/// Writes to the step's log, for people who look for a cause.
#[macro_export]
macro_rules! debug {
    ($($arg:tt)*) => { $crate::private::write($crate::log::Level::Debug, format_args!($($arg)*)) };
}

/// Writes to the step's log.
#[macro_export]
macro_rules! info {
    ($($arg:tt)*) => { $crate::private::write($crate::log::Level::Info, format_args!($($arg)*)) };
}

/// Writes to the step's log what deserves a look though the step goes on.
#[macro_export]
macro_rules! warn {
    ($($arg:tt)*) => { $crate::private::write($crate::log::Level::Warn, format_args!($($arg)*)) };
}

/// Writes to the step's log what went wrong. To fail the step, return an
/// [`Error`](crate::Error).
#[macro_export]
macro_rules! error {
    ($($arg:tt)*) => { $crate::private::write($crate::log::Level::Error, format_args!($($arg)*)) };
}
