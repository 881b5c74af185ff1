//! `mix`, the right side of Eq. 2, where a layer's maps are so small that fusing would cost more: one static
//! convolution with all experts, then `y = sum_e eta_e y_e`.

use crate::backward::team::Team;

/// Values of an image: `[pixels][experts][channels]`.
fn check(stack: &[f32], y: &[f32], coefs: &[f32], [images, experts, channels]: [usize; 3]) -> usize {
    assert_eq!(coefs.len(), images * experts * channels, "coefficients of {experts} x {channels} channels");
    let fits = stack.len() == y.len() * experts && !y.is_empty() && y.len().is_multiple_of(images * channels);
    assert!(fits, "{} and {} values of {experts} x {channels} channels", stack.len(), y.len());
    y.len() / images
}

/// `y = sum_e eta_e stack_e + bias`; sizes are images, experts and channels.
///
/// # Shapes
/// `stack [images][pixels][experts][channels]`, `coefs [images][experts][channels]`, `y [images][pixels][channels]`.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn mix(
    team: &mut Team,
    stack: &[f32],
    coefs: &[f32],
    sizes: [usize; 3],
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    let image = check(stack, y, coefs, sizes);
    let [_, experts, n] = sizes;
    team.chunks(y, image, |i, y| {
        let coefs = &coefs[i * experts * n..][..experts * n];
        let stack = &stack[i * image * experts..][..image * experts];
        for (stack, y) in stack.chunks_exact(experts * n).zip(y.chunks_exact_mut(n)) {
            match bias {
                Some(bias) => y.copy_from_slice(bias),
                None => y.fill(0.0),
            }
            for (stack, coefs) in stack.chunks_exact(n).zip(coefs.chunks_exact(n)) {
                for ((y, s), c) in y.iter_mut().zip(stack).zip(coefs) {
                    *y += s * c;
                }
            }
        }
    });
}

/// Writes the gradient of the coefficients, and puts that of `stack` in its place.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn mix_backward(
    team: &mut Team,
    stack: &mut [f32],
    coefs: &[f32],
    sizes: [usize; 3],
    dy: &[f32],
    d_coefs: &mut [f32],
) {
    let image = check(stack, dy, coefs, sizes);
    assert_eq!(coefs.len(), d_coefs.len(), "gradient of the coefficients");
    let [_, experts, n] = sizes;
    team.chunks2([stack, d_coefs], [image * experts, experts * n], |i, [stack, d_coefs]| {
        let (coefs, dy) = (&coefs[i * experts * n..], &dy[i * image..][..image]);
        d_coefs.fill(0.0);
        for (stack, dy) in stack.chunks_exact_mut(experts * n).zip(dy.chunks_exact(n)) {
            let both = d_coefs.chunks_exact_mut(n).zip(coefs.chunks_exact(n));
            for (stack, (d_coefs, coefs)) in stack.chunks_exact_mut(n).zip(both) {
                for (((s, d), c), g) in stack.iter_mut().zip(d_coefs).zip(coefs).zip(dy) {
                    *d += *s * g;
                    *s = c * g;
                }
            }
        }
    });
}

/// The gradient of a softmax's scores from that of the coefficients, in place: `[experts][channels]` of each image,
/// `(d - sum_e eta_e d_e) eta / temperature`.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn softmax_backward(
    team: &mut Team,
    coefs: &[f32],
    [experts, channels]: [usize; 2],
    temperature: f32,
    d: &mut [f32],
) {
    let len = experts * channels;
    assert!(coefs.len() == d.len() && d.len().is_multiple_of(len), "coefficients of {experts} x {channels}");
    team.chunks(d, len, |i, d| {
        let coefs = &coefs[i * len..][..len];
        let mut mean = vec![0.0; channels];
        for (coefs, d) in coefs.chunks_exact(channels).zip(d.chunks_exact(channels)) {
            for ((m, c), d) in mean.iter_mut().zip(coefs).zip(d) {
                *m += c * d;
            }
        }
        for (coefs, d) in coefs.chunks_exact(channels).zip(d.chunks_exact_mut(channels)) {
            for ((m, c), d) in mean.iter().zip(coefs).zip(d) {
                *d = (*d - m) * c / temperature;
            }
        }
    });
}

/// Softmax over the experts of each channel of each image, of the scores divided by `temperature`, in place.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn softmax(team: &mut Team, [experts, channels]: [usize; 2], temperature: f32, scores: &mut [f32]) {
    assert!(scores.len().is_multiple_of(experts * channels), "scores of {experts} x {channels}");
    let isa = team.isa;
    team.chunks(scores, experts * channels, |_, scores| {
        crate::pixelwise::softmax(isa, channels, temperature, scores);
    });
}
