//! Colours that the colour-blind can read.

/// Red, green, blue.
pub(crate) type Rgb = [u8; 3];

/// Okabe and Ito's palette without yellow and black, for lines, marks and classes.
pub(crate) const SERIES: [Rgb; 6] =
    [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [86, 180, 233], [230, 159, 0]];

/// Bands of |r|, strongest first: one hue, from dark to light, so that the order shows in grey too.
pub(crate) const BANDS: [Rgb; 4] = [[8, 64, 129], [43, 140, 190], [123, 204, 196], [204, 222, 214]];

/// What has no value.
pub(crate) const MISSING: Rgb = [150, 150, 150];

/// Points of a scale between which colours are mixed.
type Stops = [Rgb];

/// Blue, white, orange (Moreland's construction on the ends of ColorBrewer's PuOr and Blues): for -1 to 1.
const DIVERGING: [Rgb; 7] = [
    [5, 48, 107],
    [33, 113, 181],
    [146, 197, 222],
    [247, 247, 247],
    [253, 184, 99],
    [224, 112, 20],
    [127, 59, 8],
];

/// Viridis (van der Walt and Smith), nine of its points: for magnitudes from 0 to 1.
const SEQUENTIAL: [Rgb; 9] = [
    [68, 1, 84],
    [71, 45, 123],
    [59, 82, 139],
    [44, 114, 142],
    [33, 145, 140],
    [40, 174, 128],
    [94, 201, 98],
    [173, 220, 48],
    [253, 231, 37],
];

/// A scale of colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// -1 blue, 0 white, 1 orange.
    Signed,
    /// 0 dark, 1 light.
    Magnitude,
}

impl Scale {
    /// The ends of its values.
    pub(crate) fn range(self) -> [f64; 2] {
        match self {
            Self::Signed => [-1.0, 1.0],
            Self::Magnitude => [0.0, 1.0],
        }
    }

    /// The colour of a value.
    pub(crate) fn color(self, value: f64) -> Rgb {
        if !value.is_finite() {
            return MISSING;
        }
        let [low, high] = self.range();
        let share = ((value - low) / (high - low)).clamp(0.0, 1.0);
        match self {
            Self::Signed => mix(&DIVERGING, share),
            Self::Magnitude => mix(&SEQUENTIAL, share),
        }
    }
}

fn mix(stops: &Stops, share: f64) -> Rgb {
    let at = share * (stops.len() - 1) as f64;
    let low = (at as usize).min(stops.len() - 2);
    let part = at - low as f64;
    std::array::from_fn(|i| {
        let (a, b) = (f64::from(stops[low][i]), f64::from(stops[low + 1][i]));
        (a + part * (b - a)).round() as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_and_middle() {
        assert_eq!(Scale::Signed.color(0.0), [247, 247, 247]);
        assert_eq!(Scale::Signed.color(-1.0), DIVERGING[0]);
        assert_eq!(Scale::Signed.color(7.0), DIVERGING[6]);
        assert_eq!(Scale::Magnitude.color(1.0), SEQUENTIAL[8]);
        assert_eq!(Scale::Magnitude.color(f64::NAN), MISSING);
    }

    #[test]
    fn magnitudes_grow_lighter_all_the_way() {
        let light = |v: f64| {
            let [r, g, b] = Scale::Magnitude.color(v).map(f64::from);
            0.2126 * r + 0.7152 * g + 0.0722 * b
        };
        for step in 0..100 {
            assert!(light(f64::from(step + 1) / 100.0) > light(f64::from(step) / 100.0), "{step}");
        }
    }
}
