//! One block of memory for all maps of a run, borrowed in disjoint pieces.

use std::ops::Range;

/// Pieces of memory that a step writes.
pub(crate) const OUTPUTS: usize = 3;

/// What is left of the arena beside the pieces that a step writes: to be read.
pub(crate) struct Rest<'a> {
    pieces: [(usize, &'a [f32]); OUTPUTS + 1],
}

impl<'a> Rest<'a> {
    /// The values of a range.
    ///
    /// # Panics
    /// If a step reads what it writes: layouts never let them overlap.
    pub(crate) fn get(&self, range: Range<usize>) -> &'a [f32] {
        if range.is_empty() {
            return &[];
        }
        let inside = |(start, piece): &&(usize, &[f32])| {
            *start <= range.start && range.end <= start + piece.len() && !piece.is_empty()
        };
        let found = self.pieces.iter().find(inside);
        let (start, piece) = found.expect("a step does not read what it writes");
        &piece[range.start - start..range.end - start]
    }
}

/// Cuts the pieces that a step writes out of the arena; an empty range gives an empty piece.
///
/// # Panics
/// If they overlap.
pub(crate) fn carve(
    arena: &mut [f32],
    outputs: [Range<usize>; OUTPUTS],
) -> ([&mut [f32]; OUTPUTS], Rest<'_>) {
    let mut order = [0, 1, 2];
    order.sort_unstable_by_key(|i| outputs[*i].start);
    let mut cut: [&mut [f32]; OUTPUTS] = Default::default();
    let mut pieces: [(usize, &[f32]); OUTPUTS + 1] = Default::default();
    let (mut at, mut rest) = (0, arena);
    for (slot, index) in order.into_iter().enumerate() {
        let Range { start, end } = outputs[index];
        if start == end {
            continue;
        }
        let (before, tail) = rest.split_at_mut(start - at);
        let (piece, tail) = tail.split_at_mut(end - start);
        pieces[slot] = (at, before);
        cut[index] = piece;
        (at, rest) = (end, tail);
    }
    pieces[OUTPUTS] = (at, rest);
    (cut, Rest { pieces })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_where_they_were() {
        let mut arena: Vec<f32> = (0..20).map(|i| i as f32).collect();
        let ([a, b, c], rest) = carve(&mut arena, [12..15, 3..5, 0..0]);
        assert_eq!((&*a, &*b, c.len()), (&[12.0, 13.0, 14.0][..], &[3.0, 4.0][..], 0));
        assert_eq!(rest.get(0..3), [0.0, 1.0, 2.0]);
        assert_eq!(rest.get(6..8), [6.0, 7.0]);
        assert_eq!(rest.get(15..20).len(), 5);
    }

    #[test]
    #[should_panic(expected = "does not read what it writes")]
    fn overlaps_are_refused() {
        let mut arena = [0.0; 8];
        let (_, rest) = carve(&mut arena, [2..4, 0..0, 0..0]);
        rest.get(3..6);
    }
}
