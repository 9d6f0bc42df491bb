//! Where log lines go that nobody may be there to read: a full disk behind the journal or a pipe whose reader has
//! died costs the lines and nothing else. A logger that reports such an error, or panics over it, would take the
//! work down with the words about it.

use std::io::{self, Stderr, Write};

/// A writer that takes everything, whether or not it can be written.
#[derive(Debug)]
pub struct Lossy<W>(pub W);

impl<W: Write> Write for Lossy<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _lost = self.0.write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _lost = self.0.flush();
        Ok(())
    }
}

/// Standard error, for log lines.
#[must_use]
pub fn log_lines() -> Lossy<Stderr> {
    Lossy(io::stderr())
}

/// A sentence for the person at the terminal, if there still is one.
pub fn tell(sentence: &str) {
    let _unheard = writeln!(io::stderr(), "{sentence}");
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn what_cannot_be_written_is_lost_and_no_error() {
        assert_eq!(Lossy(Full).write(b"a line\n").unwrap(), 7);
        assert!(writeln!(Lossy(Full), "another").is_ok() && Lossy(Full).flush().is_ok());
        let mut kept = Lossy(Vec::new());
        writeln!(kept, "a line").unwrap();
        assert_eq!(kept.0, b"a line\n");
    }
}
