//! Times, taken in turns.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use windlass_tests::process;

use crate::Result;

/// One of the things that are compared.
pub(crate) type Way<'a> = Box<dyn FnMut() -> Result<Duration> + 'a>;

/// What several runs of one thing took.
#[derive(Debug, Clone)]
pub(crate) struct Sample(Vec<Duration>);

impl Sample {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    pub(crate) fn median(&self) -> Duration {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }

    /// The tenth and the ninetieth percentile.
    pub(crate) fn range(&self) -> (Duration, Duration) {
        let last = self.0.len().saturating_sub(1);
        let at = |index: usize| self.0.get(index).copied().unwrap_or_default();
        (at(last / 10), at(last - last / 10))
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.median().as_secs_f64()
    }

    /// `12.3 ms (11.9 to 14.0)`.
    pub(crate) fn text(&self) -> String {
        let (low, high) = self.range();
        format!("{} ({} to {})", time(self.median()), time(low), time(high))
    }
}

/// A time as people read it.
pub(crate) fn time(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    if micros < 1000.0 {
        format!("{micros:.0} µs")
    } else if micros < 1e6 {
        format!("{:.1} ms", micros / 1e3)
    } else {
        format!("{:.2} s", micros / 1e6)
    }
}

/// Runs each way once to warm up, then all of them `rounds` times in turns.
pub(crate) fn in_turns<const N: usize>(
    rounds: usize,
    mut ways: [Way<'_>; N],
) -> Result<[Sample; N]> {
    for way in &mut ways {
        way()?;
    }
    let mut times = [const { Vec::new() }; N];
    for _ in 0..rounds {
        for (way, times) in ways.iter_mut().zip(&mut times) {
            times.push(way()?);
        }
    }
    Ok(times.map(Sample::new))
}

/// How long a command takes from start to end; its failure is an error.
pub(crate) fn timed(command: &mut Command) -> Result<Duration> {
    let begun = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    let took = begun.elapsed();
    if output.status.success() {
        return Ok(took);
    }
    Err(format!(
        "run `{}`: {}\n{}",
        process::display(command),
        output.status,
        process::both(&output)
    )
    .into())
}

/// Peak of a command's memory.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Peak {
    /// Of the process itself.
    pub(crate) own: u64,
    /// The largest sum over it and those below it.
    pub(crate) tree: u64,
    pub(crate) took: Duration,
}

/// Runs a command and looks at its memory every two milliseconds. The kernel keeps each
/// process's own peak (`VmHWM`), so only what a process touches in its last two
/// milliseconds can be missed; the sum is of what is resident at a time.
pub(crate) fn peak(command: &mut Command) -> Result<Peak> {
    let begun = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let pid = child.id();
    let mut peak = Peak::default();
    let mut turn = 0_u32;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        peak.own = peak.own.max(memory(pid, "VmHWM:"));
        // Looking for children reads all of /proc: not every time.
        if turn.is_multiple_of(10) {
            let tree = process::descendants(pid)
                .into_iter()
                .map(|pid| memory(pid, "VmRSS:"));
            peak.tree = peak.tree.max(memory(pid, "VmRSS:") + tree.sum::<u64>());
        }
        turn += 1;
        std::thread::sleep(Duration::from_millis(2));
    };
    peak.took = begun.elapsed();
    peak.tree = peak.tree.max(peak.own);
    if status.success() {
        return Ok(peak);
    }
    Err(format!("run `{}`: {status}", process::display(command)).into())
}

/// Bytes, from a line of `/proc/PID/status`; 0 when it has ended.
fn memory(pid: u32, line: &str) -> u64 {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"));
    let kib = status.ok().and_then(|text| {
        let rest = text
            .lines()
            .find_map(|found| found.strip_prefix(line))?
            .trim();
        rest.strip_suffix(" kB")?.parse::<u64>().ok()
    });
    kib.unwrap_or(0) * 1024
}

/// `12.3 MB`, decimal as the bounds are.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
