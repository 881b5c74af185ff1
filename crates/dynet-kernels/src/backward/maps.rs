//! Where values of a map lie: planes and channels last, runs of channels, the channel shuffle.

use crate::backward::team::Team;
use crate::backward::transpose::{AHEAD, Far, Transpose};

/// Rows of a part of a job.
const ROWS: usize = 256;

fn planes(team: &mut Team, x: &[f32], [rows, columns]: [usize; 2], y: &mut [f32]) {
    let len = rows * columns;
    assert!(x.len() == y.len() && len > 0 && x.len().is_multiple_of(len), "{} values of {len}", x.len());
    let isa = team.isa;
    team.chunks(y, len, |i, y| {
        let (src, dst) = (x[i * len..][..len].as_ptr(), y.as_mut_ptr());
        isa.run(Transpose {
            src,
            from: |r| r * columns,
            rows,
            cols: columns,
            dst,
            to: |c| c * rows,
            far: Far::Source(AHEAD),
        });
    });
}

/// `[images][pixels][channels]` from `[images][channels][pixels]`.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn from_planes(team: &mut Team, x: &[f32], channels: usize, pixels: usize, y: &mut [f32]) {
    planes(team, x, [channels, pixels], y);
}

/// `[images][channels][pixels]` from `[images][pixels][channels]`.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn to_planes(team: &mut Team, x: &[f32], channels: usize, pixels: usize, y: &mut [f32]) {
    planes(team, x, [pixels, channels], y);
}

/// Copies channels `from[1]..` of rows of `from[0]` channels to channels `to[1]..` of rows of `to[0]`, `len` of them.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn put_columns(team: &mut Team, x: &[f32], from: [usize; 2], y: &mut [f32], to: [usize; 2], len: usize) {
    columns(team, x, from, (y, to), len, |y, x| y.copy_from_slice(x));
}

/// [`put_columns`] that adds.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn add_columns(team: &mut Team, x: &[f32], from: [usize; 2], y: &mut [f32], to: [usize; 2], len: usize) {
    columns(team, x, from, (y, to), len, |y, x| y.iter_mut().zip(x).for_each(|(y, x)| *y += x));
}

fn columns(
    team: &mut Team,
    x: &[f32],
    from: [usize; 2],
    (y, to): (&mut [f32], [usize; 2]),
    len: usize,
    put: impl Fn(&mut [f32], &[f32]) + Sync,
) {
    let fits = from[1] + len <= from[0] && to[1] + len <= to[0] && x.len() * to[0] == y.len() * from[0];
    assert!(fits, "{len} channels from {from:?} of {} values to {to:?} of {}", x.len(), y.len());
    team.chunks(y, ROWS * to[0], |part, y| {
        let rows = x[part * ROWS * from[0]..].chunks_exact(from[0]);
        for (x, y) in rows.zip(y.chunks_exact_mut(to[0])) {
            put(&mut y[to[1]..][..len], &x[from[1]..][..len]);
        }
    });
}

/// The channel shuffle: channels as `[groups, channels / groups]`, transposed. With `channels / groups` for `groups` it
/// undoes itself.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn shuffle_columns(team: &mut Team, x: &[f32], channels: usize, groups: usize, y: &mut [f32]) {
    let fits = channels > 0 && channels.is_multiple_of(groups) && x.len() == y.len();
    assert!(fits && x.len().is_multiple_of(channels), "{channels} channels in {groups} groups");
    let width = channels / groups;
    team.chunks(y, ROWS * channels, |part, y| {
        let rows = x[part * ROWS * channels..].chunks_exact(channels);
        for (x, y) in rows.zip(y.chunks_exact_mut(channels)) {
            match (groups, width) {
                // Two groups there and back: loops that the compiler turns into shuffles of registers.
                (2, _) => {
                    let (first, second) = x.split_at(width);
                    for ((y, a), b) in y.as_chunks_mut::<2>().0.iter_mut().zip(first).zip(second) {
                        *y = [*a, *b];
                    }
                }
                (_, 2) => {
                    let (first, second) = y.split_at_mut(groups);
                    for ((x, a), b) in x.as_chunks::<2>().0.iter().zip(first).zip(second) {
                        [*a, *b] = *x;
                    }
                }
                _ => {
                    for (i, y) in y.chunks_exact_mut(groups).enumerate() {
                        y.iter_mut().enumerate().for_each(|(g, y)| *y = x[g * width + i]);
                    }
                }
            }
        }
    });
}
