//! Lines from a peer that may be broken or hostile: never more than a bound in memory.

use tokio::io::{AsyncRead, AsyncReadExt};

const READ_BYTES: usize = 8 << 10;

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A whole line without its line feed.
    Whole(Vec<u8>),
    /// The first bytes of a line over the bound; its rest is not read.
    TooLong(Vec<u8>),
    /// The end; an unfinished last line counts as one before it.
    End,
}

/// Reads lines of at most `max` bytes.
#[derive(Debug)]
pub struct LineReader<R> {
    from: R,
    max: usize,
    buffer: Vec<u8>,
    /// Bytes of `buffer` known to hold no line feed.
    searched: usize,
    ended: bool,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    /// Reads from `from`.
    pub fn new(from: R, max: usize) -> Self {
        Self { from, max, buffer: Vec::new(), searched: 0, ended: false }
    }

    /// The next line. A dropped call loses no bytes.
    ///
    /// # Errors
    /// The peer is gone.
    pub async fn next(&mut self) -> std::io::Result<Line> {
        loop {
            if let Some(line) = self.take_line() {
                return Ok(line);
            }
            if self.ended {
                return Ok(Line::End);
            }
            self.buffer.reserve(READ_BYTES);
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                self.ended = true;
                if !self.buffer.is_empty() {
                    self.searched = 0;
                    return Ok(Line::Whole(std::mem::take(&mut self.buffer)));
                }
            }
        }
    }

    fn take_line(&mut self) -> Option<Line> {
        let unsearched = self.buffer.get(self.searched..).unwrap_or_default();
        let found = unsearched.iter().position(|byte| *byte == b'\n');
        match found.map(|at| self.searched + at) {
            Some(end) if end <= self.max => {
                let rest = self.buffer.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                self.searched = 0;
                Some(Line::Whole(line))
            }
            None if self.buffer.len() <= self.max => {
                self.searched = self.buffer.len();
                None
            }
            _ => {
                self.searched = 0;
                Some(Line::TooLong(std::mem::take(&mut self.buffer)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(bytes: &[u8], max: usize) -> Vec<Line> {
        let mut reader = LineReader::new(bytes, max);
        let mut all = Vec::new();
        loop {
            let line = reader.next().await.unwrap();
            if line == Line::End {
                return all;
            }
            all.push(line);
        }
    }

    #[tokio::test]
    async fn lines_come_whole_and_an_unfinished_one_at_the_end() {
        let whole = |text: &str| Line::Whole(text.as_bytes().to_vec());
        assert_eq!(
            lines(b"one\n\ntwo\nthree", 5).await,
            [whole("one"), whole(""), whole("two"), whole("three")]
        );
        assert_eq!(lines(b"", 5).await, []);
    }

    #[tokio::test]
    async fn a_line_over_the_bound_is_not_collected() {
        let mut long = vec![b'x'; 100_000];
        long.push(b'\n');
        let first = lines(&long, 1000).await.swap_remove(0);
        let Line::TooLong(part) = first else { panic!("{first:?}") };
        assert!(part.len() <= 1000 + 2 * READ_BYTES, "{}", part.len());
    }
}
