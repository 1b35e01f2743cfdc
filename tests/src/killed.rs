//! Ends `windlass` with SIGKILL at a chosen commit of its journal, from outside: a
//! library that the loader puts before the C library counts what SQLite writes.
//!
//! Between two commits the journal says the same, so killing at each of them is
//! killing in each state that a resume can find.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Result;
use crate::process;
use crate::scratch::{self, Scratch};

/// The frame that ends a transaction has the file's size in its header
/// (<https://www.sqlite.org/fileformat2.html#the_write_ahead_log>): header and page
/// come in two writes.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static long commits, at = -1;
static int torn, ending;

static int is_log(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 14) return 0;
  path[size] = 0;
  return strcmp(path + size - 14, "journal.db-wal") == 0;
}

static void stop(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

/* Before a write: whether only a part of it is to be made. */
static int before(int fd, const unsigned char *data, size_t size) {
  if (at < 0) {
    const char *text = getenv("KILL_AT_COMMIT");
    at = text ? atol(text) : 0;
    torn = getenv("KILL_TORN") != 0;
  }
  if (at == 0 || !is_log(fd)) return 0;
  if (size == 24) { ending = data[4] | data[5] | data[6] | data[7]; return 0; }
  return torn && ending && commits + 1 == at;
}

static void after(int fd, size_t size) {
  if (at <= 0 || size == 24 || size == 32 || !is_log(fd) || !ending) return;
  ending = 0;
  if (++commits == at) stop();
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = dlsym(RTLD_NEXT, #name)
#define CUT if (before(fd, data, size)) { size = size / 3; cut = 1; }

ssize_t write(int fd, const void *data, size_t size) {
  REAL(write); int cut = 0; CUT
  ssize_t done = real(fd, data, size);
  if (cut) stop();
  after(fd, size); return done;
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t place) {
  REAL(pwrite); int cut = 0; CUT
  ssize_t done = real(fd, data, size, place);
  if (cut) stop();
  after(fd, size); return done;
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t place) {
  REAL(pwrite64); int cut = 0; CUT
  ssize_t done = real(fd, data, size, place);
  if (cut) stop();
  after(fd, size); return done;
}
"#;

/// The library, built.
#[derive(Debug)]
pub struct Killer {
    library: PathBuf,
    _scratch: Scratch,
}

impl Killer {
    /// Builds it with the C compiler, which linking Rust wants anyway.
    pub fn build() -> Result<Self> {
        let scratch = Scratch::new()?;
        let (source, library) = (scratch.join("killer.c"), scratch.join("killer.so"));
        scratch::write(&source, SOURCE)?;
        let mut compiler = Command::new("cc");
        compiler
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .arg("-ldl");
        let output = process::output(&mut compiler)?;
        assert!(output.status.success(), "{}", process::both(&output));
        Ok(Self {
            library,
            _scratch: scratch,
        })
    }

    /// What the environment of an invocation has to hold.
    pub fn at(&self, commit: usize) -> [(&'static str, String); 2] {
        [
            ("LD_PRELOAD", path(&self.library)),
            ("KILL_AT_COMMIT", commit.to_string()),
        ]
    }

    /// The same, with only a part of that commit in the file.
    pub fn within(&self, commit: usize) -> [(&'static str, String); 3] {
        let [library, at] = self.at(commit);
        [library, at, ("KILL_TORN", "1".to_owned())]
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}
