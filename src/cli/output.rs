//! Owns stdout: lines, JSON and aligned tables.
//! Must not know: what is listed.

use std::fmt;
use std::io::{self, Write};

use serde_json::Value;

use super::error::CliError;

pub fn line(text: fmt::Arguments<'_>) -> Result<(), CliError> {
    text_block(&format!("{text}\n"))
}

pub fn json(value: &Value) -> Result<(), CliError> {
    text_block(&format!("{value:#}\n"))
}

/// A reader that went away (`| head`) has what it wanted.
pub fn text_block(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::failed("the answer cannot be written").with_cause(error))
        }
        _ => Ok(()),
    }
}

/// How many there are: `1 blob`, `2 blobs`. For words whose plural is an s more.
pub fn counted(count: u64, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

/// Where a column's cells stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Columns as wide as their widest cell, two spaces between them.
pub struct Table<const N: usize> {
    columns: [(&'static str, Align); N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub fn new(columns: [(&'static str, Align); N]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub fn push(&mut self, row: [String; N]) {
        self.rows.push(row);
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.columns.map(|(title, _)| title.to_owned());
        let lines = || std::iter::once(&head).chain(&self.rows);
        for row in lines() {
            let mut text = String::new();
            for (index, (cell, (_, align))) in row.iter().zip(&self.columns).enumerate() {
                let widths = lines().filter_map(|row| row.get(index)).map(|cell| cell.chars().count());
                let width = widths.max().unwrap_or_default();
                match align {
                    Align::Left => text.push_str(&format!("{cell:<width$}  ")),
                    Align::Right => text.push_str(&format!("{cell:>width$}  ")),
                }
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Align, Table};

    #[test]
    fn columns_line_up() {
        let mut table = Table::new([("IMAGE", Align::Left), ("SIZE", Align::Right), ("TAGS", Align::Left)]);
        table.push(["docker-remote/library/redis".to_owned(), "48.0 KiB".to_owned(), "7".to_owned()]);
        table.push(["é".to_owned(), "1 B".to_owned(), String::new()]);
        let expected = "\
IMAGE                            SIZE  TAGS
docker-remote/library/redis  48.0 KiB  7
é                                 1 B
";
        assert_eq!(table.to_string(), expected);
    }
}
