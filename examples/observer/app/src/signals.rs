//! SIGTERM and SIGINT as something a thread can wait for.
//!
//! The service is process 1 of its container, and the kernel drops a SIGTERM that
//! process 1 does not handle: `docker stop` would then take its full ten seconds.
//! The standard library has no signals and this program has no dependencies, so
//! the four calls of POSIX are declared here; this is the only unsafe code.

use std::ffi::c_int;

const SIGINT: c_int = 2;
const SIGTERM: c_int = 15;
const SIG_BLOCK: c_int = 0;

/// As large as `sigset_t` of glibc and musl on Linux: 1024 bits.
#[repr(C)]
struct SignalSet([u64; 16]);

unsafe extern "C" {
    fn sigemptyset(set: *mut SignalSet) -> c_int;
    fn sigaddset(set: *mut SignalSet, signal: c_int) -> c_int;
    fn pthread_sigmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
    fn sigwait(set: *const SignalSet, signal: *mut c_int) -> c_int;
}

/// The blocked termination signals.
pub struct Termination(SignalSet);

impl Termination {
    /// Blocks both signals for this thread and those it starts.
    pub fn block() -> Self {
        let mut set = SignalSet([0; 16]);
        // SAFETY: `set` is a valid, writable sigset_t of the platform's size; the
        // old mask is not wanted, for which POSIX allows a null pointer.
        unsafe {
            sigemptyset(&raw mut set);
            sigaddset(&raw mut set, SIGTERM);
            sigaddset(&raw mut set, SIGINT);
            pthread_sigmask(SIG_BLOCK, &raw const set, std::ptr::null_mut());
        }
        Self(set)
    }

    /// Waits for one of them and names it.
    pub fn wait(&self) -> &'static str {
        let mut signal: c_int = 0;
        // SAFETY: both pointers are valid for the call.
        unsafe { sigwait(&raw const self.0, &raw mut signal) };
        if signal == SIGINT {
            "SIGINT"
        } else {
            "SIGTERM"
        }
    }
}
