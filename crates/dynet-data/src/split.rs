//! Splits that are seeded and class-balanced.

use crate::random::{Purpose, shuffle, stream};

/// Draws `fraction` of each class's images, rounded, at least one where a class has two or more and at most
/// all but one. Returns what is left and what was drawn, both in ascending order.
///
/// `part` keeps draws for different parts (validation, test) apart.
pub(crate) fn balanced(labels: &[u32], fraction: f32, seed: u64, part: u64) -> (Vec<usize>, Vec<usize>) {
    let classes = labels.iter().max().map_or(0, |&last| last as usize + 1);
    let mut members = vec![Vec::new(); classes];
    for (index, &label) in labels.iter().enumerate() {
        members[label as usize].push(index);
    }
    let (mut rest, mut drawn) = (Vec::new(), Vec::new());
    for (class, mut of_class) in members.into_iter().enumerate() {
        shuffle(&mut of_class, &mut stream(Purpose::Split, seed, part, class as u64));
        let wanted = (of_class.len() as f64 * f64::from(fraction)).round() as usize;
        let most = of_class.len().saturating_sub(1);
        rest.extend(of_class.split_off(wanted.clamp(most.min(1), most)));
        drawn.extend(of_class);
    }
    rest.sort_unstable();
    drawn.sort_unstable();
    (rest, drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_is_seeded_balanced_disjoint_and_covering() {
        let labels: Vec<u32> = (0..1000).map(|i| if i % 10 < 7 { 0 } else { 1 + i % 3 }).collect();
        let (rest, drawn) = balanced(&labels, 0.2, 7, 0);
        assert_eq!((&rest, &drawn), (&balanced(&labels, 0.2, 7, 0).0, &balanced(&labels, 0.2, 7, 0).1));
        assert_ne!(drawn, balanced(&labels, 0.2, 8, 0).1);
        assert_ne!(drawn, balanced(&labels, 0.2, 7, 1).1);
        let mut all: Vec<usize> = rest.iter().chain(&drawn).copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..1000).collect::<Vec<_>>());
        for class in 0..4 {
            let total = labels.iter().filter(|&&l| l == class).count();
            let got = drawn.iter().filter(|&&i| labels[i] == class).count();
            assert_eq!(got, (total as f64 * 0.2).round() as usize, "class {class} of {total}");
        }
    }

    #[test]
    fn small_classes_keep_an_image_on_each_side() {
        let (rest, drawn) = balanced(&[0, 1, 1, 3, 3, 3], 0.1, 0, 0);
        assert_eq!((rest.len(), drawn.len()), (4, 2));
        assert_eq!(balanced(&[0, 0], 0.99, 0, 0).1.len(), 1);
        assert_eq!(balanced(&[], 0.5, 0, 0), (vec![], vec![]));
    }
}
