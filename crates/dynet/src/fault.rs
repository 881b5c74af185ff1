//! What ends a command early, by who is at fault: the exit code tells.

use std::fmt;
use std::process::ExitCode;

use dynet_train::TrainError;

/// Result of a command.
pub(crate) type Outcome = Result<ExitCode, Fault>;

/// Why a command stopped.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Bad usage or bad input: exit code 2.
    Input(String),
    /// Something that should have worked did not: exit code 1.
    Failure(String),
}

impl Fault {
    /// 2 for usage and input, 1 for a failure.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Input(_) => ExitCode::from(2),
            Self::Failure(_) => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(text) | Self::Failure(text) => f.write_str(text),
        }
    }
}

/// Says who is at fault for a library's error.
pub(crate) trait Blame<T> {
    /// The input is.
    fn input(self) -> Result<T, Fault>;
    /// Nobody is: it failed.
    fn failure(self) -> Result<T, Fault>;
}

impl<T, E: fmt::Display> Blame<T> for Result<T, E> {
    fn input(self) -> Result<T, Fault> {
        self.map_err(|e| Fault::Input(e.to_string()))
    }

    fn failure(self) -> Result<T, Fault> {
        self.map_err(|e| Fault::Failure(e.to_string()))
    }
}

/// Says who is at fault for an error of training or evaluating.
pub(crate) fn blame(error: TrainError) -> Fault {
    if error.is_input() { Fault::Input(error.to_string()) } else { Fault::Failure(error.to_string()) }
}

/// Writes to standard output; a reader that has gone away (`dynet models | head -1`) is no failure.
pub(crate) fn print(text: &str) -> Result<(), Fault> {
    use std::io::{ErrorKind, Write};
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Fault::Failure(format!("standard output: {e}"))),
        _ => Ok(()),
    }
}
