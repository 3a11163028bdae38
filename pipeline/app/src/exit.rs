//! How a command ends: an error with the exit code that scripts can rely on (sysexits).

use std::fmt;

/// Exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The command line was wrong.
    Usage = 64,
    /// The data is wrong: a failed audit, a refused model, nothing found.
    Data = 65,
    /// A service is not there.
    Unavailable = 69,
    /// A bug.
    Internal = 70,
    /// Stopped at its deadline before all was settled: nothing is lost, and the next owner reads the rest.
    Unsettled = 75,
    /// The configuration is wrong.
    Config = 78,
}

/// An error with its exit code.
#[derive(Debug)]
pub struct Failure {
    /// For the shell.
    pub code: Code,
    /// For the person, with what would mend it.
    pub error: anyhow::Error,
}

/// What a command returns.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure with a message.
    pub fn new(code: Code, message: impl fmt::Display) -> Self {
        Self { code, error: anyhow::anyhow!("{message}") }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { code: Code::Internal, error: error.into() }
    }
}

/// Ends the process at once, without waiting for threads or running the destructors of libraries.
pub fn leave(code: u8) -> ! {
    // SAFETY: it takes a number and does not return.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Gives any error an exit code.
pub trait OrExit<T> {
    /// Says which.
    fn or_exit(self, code: Code) -> Outcome<T>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, code: Code) -> Outcome<T> {
        self.map_err(|error| Failure { code, error: error.into() })
    }
}
