//! Plain text tables.

/// Alignment of a column.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows of cells, drawn with two spaces between columns and a line under the head.
pub(crate) struct Table {
    head: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table whose head cells begin with `<` (left) or `>` (right).
    pub(crate) fn new(head: &[&str]) -> Self {
        let parse = |cell: &&str| match cell.strip_prefix('>') {
            Some(text) => (text.to_owned(), Align::Right),
            None => (cell.trim_start_matches('<').to_owned(), Align::Left),
        };
        Self { head: head.iter().map(parse).collect(), rows: Vec::new() }
    }

    /// Adds a row; missing cells stay empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The drawn table, each line ended.
    pub(crate) fn draw(&self) -> String {
        let titles: Vec<String> = self.head.iter().map(|(title, _)| title.clone()).collect();
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&titles]).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let mut text = String::new();
            for (column, (width, (_, align))) in widths.iter().zip(&self.head).enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                match align {
                    Align::Left => text += &format!("{cell:<width$}  "),
                    Align::Right => text += &format!("{cell:>width$}  "),
                }
            }
            text.trim_end().to_owned() + "\n"
        };
        let rule = "-".repeat(widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1));
        let mut text = line(&titles) + &rule + "\n";
        text.extend(self.rows.iter().map(line));
        text
    }
}

/// Digits in groups of three: `11,689,512`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["<name", ">count"]);
        table.row(["a", "1"]);
        table.row(["longer", "1234"]);
        assert_eq!(table.draw(), "name    count\n-------------\na           1\nlonger   1234\n");
    }

    #[test]
    fn digits_are_grouped() {
        for (count, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (11_689_512, "11,689,512")] {
            assert_eq!(grouped(count), text);
        }
    }
}
